"""The rank of a matrix under noise: the global analytic solution of empirical variational Bayes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_NOTHING = 1e-12  # singular values below this share of the largest are rounding
_GRID, _NARROWINGS = 200, 6  # points of a grid; each next one is a hundred times as fine
_HALVINGS = 60


def evbmf_rank(matrix: Tensor) -> int:
    """Give how many singular values stand out of the noise, whose variance is estimated as well.

    With L <= M the sides, alpha = L / M, s_h the singular values: the variance v minimises the free
    energy, and s_h counts if s_h^2 > M v (1 + tau) (1 + alpha / tau), where tau solves
    phi(tau) + phi(tau / alpha) = 0 with phi(z) = log(z + 1) / z - 1/2.

    Args:
        matrix: ``(rows, columns)``.

    Returns:
        0 (all is noise) to the smaller side.

    Raises:
        ValueError: It is no matrix, or a value is not finite.

    Source:
        Nakajima, Sugiyama, Babacan and Tomioka, Global analytic solution of fully-observed
        variational Bayesian matrix factorization, JMLR 14, 2013, Theorem 2 and Corollary 2.
    """
    if matrix.ndim != 2:
        raise ValueError(f"evbmf_rank needs a matrix, got shape {tuple(matrix.shape)}")
    values = matrix.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(values).all()):
        raise ValueError("the weight holds values that are not finite; load sound weights")
    small, large = sorted(matrix.shape)
    energies = torch.linalg.svdvals(values).square()
    energies = energies[energies > _NOTHING**2 * energies[0]]
    if len(energies) == 0 or float(energies[0]) == 0:
        return 0
    tau = _tau_bar(small / large)
    bar = (1 + tau) * (1 + small / large / tau)
    variance = _noise(energies, small, large, bar)
    return int((energies > large * variance * bar).sum())


def _noise(energies: Tensor, small: int, large: int, bar: float) -> float:
    """Give the variance of least free energy: best of a grid, then of finer ones around it."""
    total = float(energies.sum()) / (small * large)
    # Above `total` there would be more noise than matrix; below `least` too many values stand out.
    kept = math.ceil(small / (1 + small / large)) - 1
    tail = energies[kept:]
    least = total * _NOTHING
    if len(tail):
        mean = float(tail.sum()) / (large * (small - kept))
        least = min(max(float(tail[0]) / (large * bar), mean, least), total)
    low, high = math.log(least), math.log(total)
    for _ in range(_NARROWINGS):
        points = torch.linspace(low, high, _GRID + 1, dtype=torch.float64)
        best = int(_free_energies(energies, small, large, points.exp(), bar).argmin())
        low, high = float(points[max(best - 1, 0)]), float(points[min(best + 1, _GRID)])
    return math.exp((low + high) / 2)


def _free_energies(
    energies: Tensor, small: int, large: int, variances: Tensor, bar: float
) -> Tensor:
    """Give what the noise variance minimises, up to a constant, for several variances."""
    alpha = small / large
    ratios = energies / (large * variances[:, None])
    excess = ratios - (1 + alpha)
    tau = (excess + (excess.square() - 4 * alpha).clamp_min(0).sqrt()) / 2
    signal = ratios - tau + ((tau + 1) / ratios).log() + alpha * (tau / alpha + 1).log()
    value = torch.where(ratios <= bar, ratios - ratios.log(), signal).sum(1)
    return value + (small - len(energies)) * variances.log()


def _tau_bar(alpha: float) -> float:
    """Solve phi(tau) + phi(tau / alpha) = 0, which falls in tau, by bisection."""

    def phi(z: float) -> float:
        return math.log1p(z) / z - 0.5

    low, high = 1e-9, 10.0  # tau is close to 2.5129 sqrt(alpha), at most 2.52
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if phi(middle) + phi(middle / alpha) > 0 else (low, middle)
    return (low + high) / 2
