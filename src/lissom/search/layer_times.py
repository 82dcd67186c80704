"""How long each layer of a network takes with other channels, or decomposed."""

from __future__ import annotations

from torch import nn

from lissom.clock import Clock
from lissom.graph.layers import ModelGraph
from lissom.lowrank.families import family_named
from lissom.plan.surgery import conv_like, linear_like
from lissom.search.low_rank import LowRank


class LayerTimes:
    """Asks a clock about layers as a configuration leaves them, each once.

    Layers that are no plain convolution or linear layer take no time here: what they take is part
    of the network's time that no configuration changes.
    """

    def __init__(self, model: nn.Module, graph: ModelGraph, clock: Clock) -> None:
        """Measure nothing yet.

        Args:
            model: The network; its values do not matter.
            graph: What it is made of.
            clock: Tells the times.
        """
        plain = (nn.Conv2d, nn.Linear)
        modules = dict(model.named_modules())
        self._layers = {
            spec.name: (modules[spec.name], spec.input_shape, spec.calls)
            for spec in graph.layers
            if type(modules.get(spec.name)) in plain and spec.calls
        }
        self._clock = clock
        self._known: dict[tuple[str, int, int, LowRank | None], int] = {}

    def of(self, layer: str, inputs: int, outputs: int, low_rank: LowRank | None) -> int:
        """Give nanoseconds over all calls of a layer.

        Args:
            layer: Its name.
            inputs: Input channels that are left, of a grouped convolution those of one group.
            outputs: Output channels that are left.
            low_rank: How it is decomposed, or None.

        Raises:
            MeasureError: The machine is too busy to tell.
        """
        key = (layer, inputs, outputs, low_rank)
        if key not in self._known:
            self._known[key] = self._measure(*key) if layer in self._layers else 0
        return self._known[key]

    def _measure(self, layer: str, inputs: int, outputs: int, low_rank: LowRank | None) -> int:
        original, shape, calls = self._layers[layer]
        resized = _resized(original, inputs, outputs).to("meta")
        whole = nn.Sequential(resized)
        if low_rank is not None:
            family_named(low_rank.family).decision("0", low_rank.ranks).apply(whole)
        if isinstance(resized, nn.Conv2d):
            shape = (resized.in_channels, *shape[1:])
        else:
            shape = (*shape[:-1], inputs)
        return calls * self._clock.nanoseconds(whole, shape)


def _resized(layer: nn.Module, inputs: int, outputs: int) -> nn.Module:
    """Build the layer with other channel counts; a depthwise convolution stays depthwise."""
    if not isinstance(layer, nn.Conv2d):
        assert isinstance(layer, nn.Linear)
        return linear_like(layer, in_features=inputs, out_features=outputs)
    groups = layer.groups
    if groups > 1 and groups == layer.in_channels:
        groups = outputs * groups // layer.out_channels
    return conv_like(layer, in_channels=inputs * groups, out_channels=outputs, groups=groups)
