"""Split a weight into a part on few input channels and a part of low rank on the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lissom.lowrank.factorize import check_rank, double, like
from lissom.lowrank.metric import Metric, metric_for

_EXCHANGES = 8
_SETTLED = 1e-6  # relative gain of an exchange below which the channels have settled
_STEPS = 8  # in which channels are taken where L is fitted anew in between
_TRIED = 3  # splits, best predicted ones first, whose true error decides


@dataclass(frozen=True, slots=True)
class Split:
    """W = S + L.

    Attributes:
        order: (S,) int64: the input channels that ``sparse`` reads, then the others; each part
            ascending.
        sparse: (T, channels, kH, kW), or (T, channels).
        last: (T, rank), orthonormal columns.
        first: (rank, S - channels, kH, kW), or (rank, S - channels).
    """

    order: Tensor
    sparse: Tensor
    last: Tensor
    first: Tensor

    @property
    def dense(self) -> Tensor:
        """Add both parts to a weight like the one that was split."""
        taken = self.sparse.shape[1]
        dense = self.sparse.new_zeros(len(self.sparse), len(self.order), *self.sparse.shape[2:])
        dense[:, self.order[:taken]] = self.sparse
        dense[:, self.order[taken:]] = torch.tensordot(self.last, self.first, dims=1)
        return dense


def sparse_plus_svd(
    weight: Tensor, channels: int, rank: int, *, covariance: Tensor | None = None
) -> Split:
    """Split W = S + L, S on ``channels`` inputs alone, L of rank ``rank`` on all others.

    For given channels the split is optimal: what S reads it can also use to stand in for what L
    misses, so that L is the truncated SVD under the others' covariance given the taken ones. Which
    channels S takes is found in turns with L: those from which most of what L misses can be
    predicted, one after the other, until the error falls no more. Of three starts, L alone, no L,
    and one in which L follows while S grows, the best counts.

    Args:
        weight: ``(T, S, kH, kW)``, or ``(T, S)``.
        channels: 1 to S - 1.
        rank: 1 to min(T, (S - channels) kH kW).
        covariance: E[x x^T] of the inputs, as for ``factorize.tucker2``; None measures the weight.

    Raises:
        ValueError: A shape or number does not fit, or a value is not finite.

    Source:
        Yu, Liu, Wang and Tao, On compressing deep models by low rank and sparse decomposition,
        CVPR 2017 (the sum; theirs is sparse by entry, and in turns likewise).
    """
    problem = _Problem.of(weight, covariance)
    check_rank("channels", channels, problem.metric.channels - 1)
    others = (problem.metric.channels - channels) * weight[0, 0].numel()
    check_rank("rank", rank, min(len(weight), others))
    return problem.split(problem.best(channels, rank), weight)


def best_split(
    weight: Tensor,
    frontier: Mapping[int, int],
    *,
    covariance: Tensor | None = None,
) -> tuple[int, int]:
    """Give the (channels, rank) that err least.

    The errors are predicted in one sweep in which S takes more and more channels and L is fitted
    anew; the best few are then split in full.

    Args:
        weight: ``(T, S, kH, kW)``, or ``(T, S)``.
        frontier: Numbers of channels to choose from, ascending, 1 to S - 1, each with the rank that
            is to go with it.
        covariance: As for ``sparse_plus_svd``.

    Raises:
        ValueError: The covariance does not belong to the weight, or a value is not finite.
    """
    problem = _Problem.of(weight, covariance)
    return min(problem.likely(frontier)[:_TRIED], key=lambda split: problem.best(*split).error)


def predicted_splits(
    weight: Tensor, frontiers: Sequence[Mapping[int, int]], *, covariance: Tensor | None = None
) -> tuple[tuple[int, int], ...]:
    """Give, of each of several frontiers, the (channels, rank) that are predicted to err least.

    As ``best_split``, but nothing is split in full.

    Args:
        weight: ``(T, S, kH, kW)``, or ``(T, S)``.
        frontiers: As ``frontier`` there.
        covariance: As for ``sparse_plus_svd``.

    Raises:
        ValueError: The covariance does not belong to the weight, or a value is not finite.
    """
    problem = _Problem.of(weight, covariance)
    return tuple(problem.likely(frontier)[0] for frontier in frontiers)


@dataclass(frozen=True, slots=True)
class _Fit:
    """The best low-rank part for one choice of channels, and what both parts together leave."""

    taken: list[int]
    directions: Tensor  # (T, rank), orthonormal
    error: float


@dataclass(frozen=True, slots=True)
class _Problem:
    """A weight (T, J, N) under C (N, N), in which each channel has ``width`` entries."""

    rows: Tensor
    metric: Metric

    @classmethod
    def of(cls, weight: Tensor, covariance: Tensor | None) -> _Problem:
        if weight.ndim not in (2, 4):
            raise ValueError(f"needs (T, S) or (T, S, kH, kW), got {tuple(weight.shape)}")
        dense = double(weight).reshape(*weight.shape[:2], -1)
        metric = metric_for(dense, covariance)
        return cls(metric.rows(dense), metric)

    @property
    def width(self) -> int:
        return self.metric.matrix.shape[0] // self.metric.channels

    def best(self, channels: int, rank: int) -> _Fit:
        """Find channels from several starts, since each ends where it can't improve in turns."""
        alone = _Given(self).fit(rank).directions
        nothing = torch.zeros(len(self.rows), 1, dtype=torch.float64)
        counts = {max(1, round(channels * step / _STEPS)): rank for step in range(1, _STEPS + 1)}
        fits = [self._exchanged(channels, rank, start) for start in (alone, nothing)]
        return min([*fits, self.swept(counts)[channels]], key=lambda fit: fit.error)

    def likely(self, frontier: Mapping[int, int]) -> list[tuple[int, int]]:
        """Sort the (channels, rank) of a frontier by the errors that the sweep gives them."""
        swept = self.swept(frontier)
        return sorted(frontier.items(), key=lambda split: swept[split[0]].error)

    def swept(self, frontier: Mapping[int, int]) -> dict[int, _Fit]:
        """Fit L anew beside more and more channels; per number of channels its rank."""
        given, fits = _Given(self), {}
        directions = given.fit(next(iter(frontier.values()))).directions
        for channels, rank in frontier.items():
            given.take(channels - len(given.taken), directions)
            fits[channels] = given.fit(rank)
            directions = fits[channels].directions
        return fits

    def _exchanged(self, channels: int, rank: int, directions: Tensor) -> _Fit:
        """Take the channels that explain what L misses and fit L to the others, in turns."""
        best: _Fit | None = None
        for _ in range(_EXCHANGES):
            given = _Given(self)
            given.take(channels, directions)
            fit = given.fit(rank)
            if best is not None and fit.error >= best.error * (1 - _SETTLED):
                break
            best, directions = fit, fit.directions
        assert best is not None
        return best

    def split(self, fit: _Fit, weight: Tensor) -> Split:
        """Give both parts of the weight."""
        taken, everything = torch.tensor(sorted(fit.taken)), torch.arange(self.metric.channels)
        rest = everything[~torch.isin(everything, taken)]
        inside, outside = self.places(taken), self.places(rest)
        first = torch.einsum("tr,tjn->rjn", fit.directions, self.rows[..., outside])
        missed = self.rows[..., outside] - torch.einsum("tr,rjn->tjn", fit.directions, first)
        matrix = self.metric.matrix
        predicts = torch.linalg.solve(matrix[inside][:, inside], matrix[inside][:, outside])
        sparse = self.rows[..., inside] + missed @ predicts.T
        kernel = weight.shape[2:]
        return Split(
            torch.cat([taken, rest]).to(weight.device),
            like(weight, self.metric.unrows(sparse).reshape(len(weight), -1, *kernel)),
            like(weight, fit.directions),
            like(weight, self.metric.unrows(first).reshape(first.shape[0], -1, *kernel)),
        )

    def places(self, channels: Tensor) -> Tensor:
        """Give the entries of C that belong to channels."""
        return (channels[:, None] * self.width + torch.arange(self.width)).flatten()


class _Given:
    """What the outputs and the other inputs still hold once some channels are known.

    Attributes:
        taken: These channels.
    """

    def __init__(self, problem: _Problem) -> None:
        self.taken: list[int] = []
        self._problem = problem
        self._left = problem.metric.matrix.clone()  # (N, N): C given the taken channels
        self._output = problem.rows @ self._left  # (T, J, N): covariance of the output with them

    def fit(self, rank: int) -> _Fit:
        """Fit the best L to what is left; its error is that of both parts, S being fitted too."""
        energy = torch.einsum("tjn,ujn->tu", self._output, self._problem.rows)
        values, vectors = torch.linalg.eigh((energy + energy.T) / 2)
        missed = values[: len(values) - rank].clamp_min(0).sum()
        return _Fit(list(self.taken), vectors.flip(1)[:, :rank].contiguous(), float(missed))

    def take(self, channels: int, directions: Tensor) -> None:
        """Take the channels from which most can be predicted of what L misses, one by one.

        Args:
            channels: How many.
            directions: L's, (T, rank).
        """
        for _ in range(channels):
            self._take(self._best(directions))

    def _take(self, channel: int) -> None:
        own = self._problem.places(torch.tensor([channel]))
        predicts = torch.linalg.solve(self._left[own][:, own], self._left[own])  # (n, N)
        self._output = self._output - self._output[..., own] @ predicts
        self._left = self._left - self._left[:, own] @ predicts
        self.taken.append(channel)

    def _best(self, directions: Tensor) -> int:
        seen = torch.einsum("tr,tjn->rjn", directions, self._output)
        missed = self._output - torch.einsum("tr,rjn->tjn", directions, seen)
        width, channels = self._problem.width, self._problem.metric.channels
        free = torch.ones(channels, dtype=torch.bool)
        free[self.taken] = False
        parts = missed.reshape(*missed.shape[:2], channels, width)[:, :, free]
        blocks = self._left.reshape(channels, width, channels, width)
        own = blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1)[free]  # (S', n, n)
        moments = torch.einsum("tjsn,tjsm->snm", parts, parts)
        gains = torch.linalg.solve(own, moments).diagonal(dim1=1, dim2=2).sum(1)
        return int(free.nonzero()[gains.argmax()])
