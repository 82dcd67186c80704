"""AJC: sparsity and bit width of every layer learned in one training, for the bytes of the file.

Yao, Peng, Yu, Liu, Peng, Chinese Journal of Scientific Instrument 44(5), 2023; a reconstruction
from the abstract.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lissom.errors import BudgetError, LissomError, RecipeError
from lissom.extension import ModelView, Proposal
from lissom.graph.folding import foldable
from lissom.graph.layers import ModelGraph
from lissom.methods.units import check_ignored
from lissom.packed.network import packed_network
from lissom.packed.writer import PackedFile
from lissom.plan.budget import Budget
from lissom.plan.cost import Cost
from lissom.plan.plan import Plan
from lissom.quantization.final_form import FinalForm, final_form
from lissom.quantization.levelled import Levelled
from lissom.quantization.network import QuantizedNetwork
from lissom.quantization.steering import FileSize, Phases, SizeSteering
from lissom.quantization.trim import Trimmable, trimmed

_BITS_PER_BYTE = 8


@dataclass(frozen=True, slots=True)
class AjcSettings:
    """Free choices of the method.

    Attributes:
        start_bits: Bits per weight, sign included, that every layer starts with.
        rate_factor: Peak learning rate of the weights, as a multiple of recovery's.
        quantizer_rate: Peak learning rate of steps, thresholds and ranges (Adam).
        ramp_start: Share of the training after which the size that is aimed at begins to fall.
        ramp_end: Where it has reached the budget.
        hold_at: Where levels are trimmed to the budget and held; scales, biases and batch norms
            train on.
        steer_every: Steps between two looks at the size.
        weighings: How often the real file is weighed before levels are held.
    """

    start_bits: int = 4
    rate_factor: float = 2.5
    quantizer_rate: float = 1e-3
    ramp_start: float = 0.02
    ramp_end: float = 0.5
    hold_at: float = 0.85
    steer_every: int = 50
    weighings: int = 40

    def __post_init__(self) -> None:
        if not 1 <= self.start_bits <= 8:
            raise RecipeError(f"start_bits={self.start_bits}: expected 1 to 8")
        for name in ("rate_factor", "quantizer_rate"):
            if not getattr(self, name) > 0:
                raise RecipeError(f"{name}={getattr(self, name)}: expected more than 0")
        self.phases()

    def phases(self) -> Phases:
        """Give the times of the training."""
        return Phases(
            self.ramp_start, self.ramp_end, self.hold_at, self.steer_every, self.weighings
        )


class Ajc:
    """Quantizes with learned dead zones, trains, hardens, packs.

    Attributes:
        name: ``ajc``.
        trains: True.
        limits: The size of the file.
    """

    name = "ajc"
    trains = True
    limits = frozenset({"size"})

    def __init__(self, settings: AjcSettings | None = None) -> None:
        self.settings = settings or AjcSettings()

    def smallest(self, view: ModelView) -> Cost:
        """Give the cost with nothing but zeros for weights: what the file takes besides levels."""
        layers, _ = quantizable(view.model, view.graph, view.ignore)
        form = _Forming(view, layers)
        zeros = {
            name: Levelled(
                torch.zeros_like(view.model.get_submodule(name).weight, dtype=torch.int32),  # type: ignore[arg-type]
                torch.ones(()),
            )
            for name in layers
        }
        packed = form.packed(form.of(view.model, zeros))
        return replace(view.graph.cost, bits=_BITS_PER_BYTE * len(packed.content))

    def plan(self, view: ModelView, budget: Budget) -> Proposal:
        """Attach quantizers, train with the run's settings, harden.

        Raises:
            BudgetError: The budget limits no size, or the file can't be made that small.
            LissomError: The view can't train (a preview).
        """
        limit = budget.bytes_limit(view.graph.cost)
        if limit is None:
            raise BudgetError("ajc is held to the size of the file: give size=25x or size=40kB")
        if view.train is None or view.recalibrate is None:
            raise LissomError("ajc decides by training, which a preview does not do")
        layers, refused = quantizable(view.model, view.graph, view.ignore)
        forming = _Forming(view, layers)
        relaxed = copy.deepcopy(view.model)
        network = QuantizedNetwork.attach(relaxed, layers, self.settings.start_bits)

        def weigh(levels: Mapping[str, Levelled]) -> FileSize:
            packed = forming.packed(forming.of(relaxed, levels))
            return FileSize(packed.level_bytes, len(packed.content) - packed.level_bytes)

        settings = self.settings
        steering = SizeSteering(network, limit, weigh, settings.phases(), settings.quantizer_rate)
        training = view.train(relaxed, steering, rate_factor=settings.rate_factor)
        recalibration = view.recalibrate(relaxed.eval())
        before = None if view.score is None else view.score(relaxed)
        levels = network.levelled()
        form = forming.within(relaxed, levels, limit)
        evidence = {
            "accuracy_before_hardening": before,
            "trajectory": steering.trajectory,
            "layers": _layer_evidence(levels),
            "recalibration": recalibration,
            "folded": forming.folds,
            "left_alone": refused,
        }
        packed = forming.packed(form)
        return Proposal(
            plan=Plan(form.plan),
            values=form.values,
            predicted=replace(view.graph.cost, bits=_BITS_PER_BYTE * len(packed.content)),
            evidence=evidence,
            training=training,
            settled=True,
        )


class _Forming:
    """Gives the network's final form, and the file that it would be."""

    def __init__(self, view: ModelView, layers: tuple[str, ...]) -> None:
        found = foldable(view.model, view.example_inputs)
        self.folds = {layer: norm for layer, norm in found.items() if layer in layers}
        self._base = view.base or Plan.starting_from(view.model)
        self._plain = copy.deepcopy(view.model)

    def of(self, relaxed: nn.Module, levels: Mapping[str, Levelled]) -> FinalForm:
        """Give the final form of a network with these levels.

        Args:
            relaxed: The network, with quantizers or without.
            levels: For its quantized layers.
        """
        # A copy of a network with quantizers shares their classes: taking them off the copy would
        # break the network.
        theirs = relaxed.state_dict()
        for name, tensor in self._plain.state_dict().items():
            if name in theirs:
                tensor.copy_(theirs[name])
        return final_form(self._plain, levels, self.folds)

    def packed(self, form: FinalForm) -> PackedFile:
        """Give the file."""
        return packed_network(form.values, self._base + Plan(form.plan))

    def within(self, relaxed: nn.Module, levels: Mapping[str, Levelled], limit: int) -> FinalForm:
        """Give the final form whose file has at most ``limit`` bytes, trimming where it must.

        Scales and biases trained on after the levels were held, so that the file may have grown by
        a few bytes.

        Raises:
            BudgetError: The file exceeds the limit even without any weight.
        """
        tensors = {
            name: Trimmable(one.weight, one.levels, one.step, torch.ones(()))
            for name, one in levels.items()
        }

        def formed(chosen: Mapping[str, Tensor]) -> FinalForm:
            return self.of(relaxed, {n: Levelled(q, levels[n].step) for n, q in chosen.items()})

        form = formed(
            trimmed(tensors, limit, lambda chosen: len(self.packed(formed(chosen)).content))
        )
        size = len(self.packed(form).content)
        if size > limit:
            raise BudgetError(
                f"budget: size: the file takes {size:,} bytes without any weight, above {limit:,}; "
                "allow more, or ignore fewer layers"
            )
        return form


def quantizable(
    model: nn.Module, graph: ModelGraph, ignore: frozenset[str]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Name the layers whose weights become levels, and say why the others do not.

    Args:
        model: The network.
        graph: What it is made of.
        ignore: Layers that the user wants left alone.

    Returns:
        Names in execution order, and a reason for every other convolution or linear layer.
    """
    check_ignored(graph, ignore)
    counts: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        counts[id(parameter)] = counts.get(id(parameter), 0) + 1
    chosen, refused = [], {}
    for layer in graph.layers:
        module = model.get_submodule(layer.name) if layer.name else model
        if not isinstance(module, (_ConvNd, nn.Linear)):
            continue
        weight = module._parameters.get("weight")
        if layer.name in ignore:
            refused[layer.name] = "ignored"
        elif weight is None:
            refused[layer.name] = "its weight is computed by something else"
        elif counts[id(weight)] > 1:
            refused[layer.name] = "shares its weight with another layer"
        elif not layer.calls:
            refused[layer.name] = "does not run"
        else:
            chosen.append(layer.name)
    return tuple(chosen), refused


def _layer_evidence(levels: Mapping[str, Levelled]) -> dict[str, Any]:
    return {
        name: {"bits": one.bits, "density": one.density, "step": float(one.step)}
        for name, one in levels.items()
    }
