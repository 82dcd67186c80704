"""The companion of a training that learns the ranges of activations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from lissom.extension import StepState
from lissom.quantization.own_adam import OwnAdam


class RangeTuning:
    """Steps the logarithms of ranges by an Adam of their own.

    Args:
        shifts: They.
        rate: At the start; it falls like a cosine.
    """

    def __init__(self, shifts: Iterable[nn.Parameter], rate: float) -> None:
        self._shifts, self._rate = list(shifts), rate
        self._adam = OwnAdam(self._shifts)

    def without_decay(self) -> Iterable[nn.Parameter]:
        """Give nothing: the loop's optimizer has none of them."""
        return ()

    def learns(self) -> Iterable[nn.Parameter]:
        """Give the logarithms."""
        return self._shifts

    def penalty(self) -> Tensor | None:
        """Give nothing."""
        return None

    def after_step(self, step: StepState) -> bool:
        """Step the ranges."""
        self._adam.step(self._rate, step.progress)
        return False

    def after_average(self) -> None:
        """Leave everything as it is: averaged ranges are ranges."""

    def status(self) -> str:
        """Give nothing: there are as many ranges as tensors."""
        return ""

    def scalars(self) -> Mapping[str, float]:
        """Give how far the ranges have moved, the largest logarithm."""
        moved = [float(shift.detach().abs().max()) for shift in self._shifts]
        return {"range_moved": max(moved, default=0.0)}

    def state_dict(self) -> dict[str, Tensor]:
        """Give Adam's moments."""
        return self._adam.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from ``state_dict``'s output."""
        self._adam.load_state_dict(state)
