"""Which layers stay float: measured harm of rounding each, and a budget for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from lissom.export.qdq import Int8Layout, write_qdq
from lissom.export.runtime import OnnxSession

Batches = Sequence[tuple[Tensor, ...]]
Distance = Callable[[tuple[Tensor, ...], tuple[Tensor, ...]], Tensor]


@dataclass(frozen=True, slots=True)
class FloatBudget:
    """How many layers stay float.

    Attributes:
        keep_float: At least so many, the most harmful ones.
        max_harm: As many more as it takes for the harm of the whole network to fall to this
            (nats per sample for a classifier); None: no such limit.
    """

    keep_float: int = 0
    max_harm: float | None = None

    def __post_init__(self) -> None:
        if self.keep_float < 0:
            raise ValueError(f"keep_float={self.keep_float}: expected at least 0")
        if self.max_harm is not None and not self.max_harm >= 0:
            raise ValueError(f"max_harm={self.max_harm}: expected at least 0")

    @property
    def asks(self) -> bool:
        """Tell whether anything must be measured."""
        return self.keep_float > 0 or self.max_harm is not None


class Harm:
    """How far a rounded network is from the float one, on fixed data.

    Attributes:
        batches: The data.
    """

    def __init__(self, content: bytes, batches: Batches, distance: Distance) -> None:
        """Run the float network once.

        Args:
            content: The float network, as ONNX.
            batches: Inputs.
            distance: Between outputs and the float network's, averaged over the samples.
        """
        self.batches = batches
        self._distance = distance
        session = OnnxSession(content)
        self._references = [session(*inputs) for inputs in batches]

    def __call__(self, content: bytes) -> float:
        """Measure a rounded network by running it."""
        session = OnnxSession(content)
        total, samples = 0.0, 0
        for inputs, reference in zip(self.batches, self._references, strict=True):
            total += float(self._distance(session(*inputs), reference)) * len(inputs[0])
            samples += len(inputs[0])
        return total / samples


def layer_harms(harm: Harm, content: bytes, layout: Int8Layout) -> dict[str, float]:
    """Measure the harm of each layer alone: its weights, input and output rounded, nothing else.

    Args:
        harm: Against the float network.
        content: The float network that is rounded.
        layout: Its ranges; the layers to look at.
    """
    return {
        name: harm(write_qdq(content, replace(layout, layers=frozenset([name]))))
        for name in sorted(layout.layers)
    }


def choose_float(
    measure: Callable[[frozenset[str]], float], harms: Mapping[str, float], budget: FloatBudget
) -> frozenset[str]:
    """Choose the layers that stay float.

    Greedy: layers leave int8 in the order of their harm alone, the worst first. How many do is
    found by bisection on the measured harm of the whole network, which falls as layers leave, up
    to the noise of rounding.

    Args:
        measure: Gives the harm of the network with these layers in int8.
        harms: Of each layer alone.
        budget: The limits.

    Returns:
        Their names; all layers where nothing less meets ``max_harm``.
    """
    order = sorted(harms, key=lambda name: harms[name], reverse=True)

    low, high = min(budget.keep_float, len(order)), len(order)
    if budget.max_harm is None or measure(frozenset(order[low:])) <= budget.max_harm:
        return frozenset(order[:low])
    while high - low > 1:  # low does not meet it, high does
        middle = (low + high) // 2
        if measure(frozenset(order[middle:])) <= budget.max_harm:
            high = middle
        else:
            low = middle
    return frozenset(order[:high])
