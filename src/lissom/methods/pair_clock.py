"""Whether two layers in a row are faster than the one layer that they compute: measured."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from lissom.export.onnx import export_onnx
from lissom.lowrank.families import family_named
from lissom.measure.latency import Conditions, onnx_latency
from lissom.plan.cost import Cost
from lissom.plan.surgery import conv_like, linear_like
from lissom.relaxation.rank_and_channels import RankAndChannels
from lissom.relaxation.support import within
from lissom.search.price import Configuration, LowRank

_CONDITIONS = Conditions(runs=40, warmup=10)


class PairClock:
    """Decides merging by the clock, within the budget.

    A pair that costs no less than the one layer is merged in any case; one that costs less but runs
    slower is merged as long as the network stays within its limits.
    """

    def __init__(
        self, relaxation: RankAndChannels, model: nn.Module, limits: Mapping[str, int]
    ) -> None:
        """Measure nothing yet.

        Args:
            relaxation: As trained.
            model: The network before it was relaxed.
            limits: ``macs``, ``params``: absolute.
        """
        self._relaxation, self._model, self._limits = relaxation, model, dict(limits)
        self._cost = relaxation.pricer.price(relaxation.expected())
        self.times: dict[str, tuple[float, float]] = {}

    def pays(self, layer: str, rank: int, kept: Mapping[str, tuple[int, ...]]) -> bool:
        """Say whether a pair is to stay two layers."""
        if not self._relaxation.pays(layer, rank, kept):
            return False
        pair_ms, one_ms = self.times[layer] = self._time(layer, rank, kept)
        grown = self._cost + self._extra(layer, rank, kept)
        if pair_ms <= one_ms or not within(grown, self._limits):
            return True
        self._cost = grown
        return False

    def _extra(self, layer: str, rank: int, kept: Mapping[str, tuple[int, ...]]) -> Cost:
        pricer = self._relaxation.pricer
        pair = Configuration(kept, {layer: LowRank(self._family(layer), (rank,))})
        return pricer.layer(layer, Configuration(kept)) - pricer.layer(layer, pair)

    def _family(self, layer: str) -> str:
        return self._relaxation.columns[layer].block.family

    def _time(
        self, layer: str, rank: int, kept: Mapping[str, tuple[int, ...]]
    ) -> tuple[float, float]:
        """Time both forms in ONNX Runtime, in turn: medians in milliseconds."""
        inputs, outputs = self._relaxation.pricer.channels(layer, Configuration(kept))
        original = self._model.get_submodule(layer)
        one = nn.Sequential(_resized(original, inputs, outputs))
        pair = nn.Sequential(_resized(original, inputs, outputs))
        family_named(self._family(layer)).decision("0", (rank,)).apply(pair)
        for network in (one, pair):
            for parameter in network.parameters():
                nn.init.normal_(parameter, std=0.1)
        example = _input(self._relaxation.graph.layer(layer).input_shape, original, inputs)
        with tempfile.TemporaryDirectory() as folder:
            files = {"pair": Path(folder) / "pair.onnx", "one": Path(folder) / "one.onnx"}
            export_onnx(pair, (example,), files["pair"])
            export_onnx(one, (example,), files["one"])
            found = onnx_latency(files, (example,), _CONDITIONS)
        return found["pair"].median_ms, found["one"].median_ms


def _resized(layer: nn.Module, inputs: int, outputs: int) -> nn.Module:
    if isinstance(layer, nn.Conv2d):
        return conv_like(layer, in_channels=inputs, out_channels=outputs)
    assert isinstance(layer, nn.Linear)
    return linear_like(layer, in_features=inputs, out_features=outputs)


def _input(shape: tuple[int, ...], layer: nn.Module, inputs: int) -> Tensor:
    if isinstance(layer, nn.Conv2d):
        return torch.randn(1, inputs, *shape[1:])
    return torch.randn(1, *shape[:-1], inputs)
