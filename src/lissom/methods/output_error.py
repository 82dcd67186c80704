"""The output error of many changes of one weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from lissom.lowrank.metric import Metric


@dataclass(frozen=True)
class OutputError:
    """Gives E|dW x|^2 / E|W x|^2; as ``lissom.pruning.reconstruct.output_error``, prepared.

    Attributes:
        weight: W (T, S, K), double precision on the CPU.
        metric: C = E[x x^T], undamped.
        whole: E|W x|^2.
    """

    weight: Tensor
    metric: Metric
    whole: float

    @classmethod
    def of(cls, weight: Tensor, covariance: Tensor | None) -> Self:
        """Prepare.

        Args:
            weight: ``(T, S, kH, kW)`` or ``(T, S)``.
            covariance: ``(S kH kW, S kH kW)`` or ``(S, S)``; None: of white inputs.
        """
        dense = _cube(weight)
        channels, positions = dense.shape[1:]
        matrix = torch.eye(channels) if covariance is None else covariance.detach()
        metric = Metric(matrix.to("cpu", torch.float64), channels, positions)
        return cls(dense, metric, _energy(dense, metric))

    def __call__(self, changed: Tensor) -> float:
        """Give the relative error of a changed weight; 0 where the layer gives nothing."""
        change = _cube(changed) - self.weight
        return _energy(change, self.metric) / self.whole if self.whole > 0 else 0.0


def _cube(weight: Tensor) -> Tensor:
    return weight.detach().to("cpu", torch.float64).reshape(*weight.shape[:2], -1)


def _energy(change: Tensor, metric: Metric) -> float:
    return float((metric.pulled(change) * change).sum())
