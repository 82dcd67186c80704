"""An Adam of a companion's own, whose state is a few tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class OwnAdam:
    """Steps parameters that a training's optimizer leaves alone; the rate falls like a cosine.

    Args:
        parameters: May be empty; then nothing is done.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._adam = torch.optim.Adam(parameters) if parameters else None

    def step(self, rate: float, progress: float) -> None:
        """Step by the gradients, and clear them.

        Args:
            rate: At the start of the training.
            progress: Share of the training that is done.
        """
        if self._adam is None:
            return
        for group in self._adam.param_groups:
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * progress))
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Tensor]:
        """Give the moments."""
        moments = self._adam.state_dict()["state"] if self._adam is not None else {}
        return {
            f"{index}.{key}": value
            for index, found in moments.items()
            for key, value in found.items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from ``state_dict``'s output."""
        if self._adam is None:
            return
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in state.items():
            index, _, key = name.partition(".")
            moments.setdefault(int(index), {})[key] = value.clone()
        groups = self._adam.state_dict()["param_groups"]
        self._adam.load_state_dict({"state": moments, "param_groups": groups})
