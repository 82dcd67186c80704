"""The rank of a matrix under noise: the global analytic solution of empirical variational Bayes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_NOTHING = 1e-12  # singular values below this share of the largest are rounding
_GRID, _NARROWINGS = 200, 60
_GOLDEN = (math.sqrt(5) - 1) / 2


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
    """Give the variance of least free energy: best of a grid, then golden section."""
    total = float(energies.sum()) / (small * large)
    # Above `total` there would be more noise than matrix; below `least` too many values stand out.
    kept = math.ceil(small / (1 + small / large)) - 1
    tail = energies[kept:]
    least = total * _NOTHING
    if len(tail):
        mean = float(tail.sum()) / (large * (small - kept))
        least = min(max(float(tail[0]) / (large * bar), mean, least), total)
    low, high = math.log(least), math.log(total)
    step = (high - low) / _GRID
    grid = [low + step * index for index in range(_GRID + 1)]
    best = min(grid, key=lambda point: _free_energy(energies, small, large, math.exp(point), bar))
    left, right = max(low, best - step), min(high, best + step)
    for _ in range(_NARROWINGS):
        one, two = right - _GOLDEN * (right - left), left + _GOLDEN * (right - left)
        first, second = (
            _free_energy(energies, small, large, math.exp(point), bar) for point in (one, two)
        )
        left, right = (left, two) if first < second else (one, right)
    return math.exp((left + right) / 2)


def _free_energy(energies: Tensor, small: int, large: int, variance: float, bar: float) -> float:
    """Give what the noise variance minimises, up to a constant."""
    alpha = small / large
    ratios = energies / (large * variance)
    noise, signal = ratios[ratios <= bar], ratios[ratios > bar]
    excess = signal - (1 + alpha)
    tau = (excess + (excess.square() - 4 * alpha).sqrt()) / 2
    value = (noise - noise.log()).sum() + (signal - tau).sum() + ((tau + 1) / signal).log().sum()
    value = value + alpha * (tau / alpha + 1).log().sum()
    return float(value) + (small - len(energies)) * math.log(variance)


def _tau_bar(alpha: float) -> float:
    """Solve phi(tau) + phi(tau / alpha) = 0, which falls in tau, by bisection."""

    def phi(z: float) -> float:
        return math.log1p(z) / z - 0.5

    low, high = 1e-9, 10.0  # tau is close to 2.5129 sqrt(alpha), at most 2.52
    for _ in range(_NARROWINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if phi(middle) + phi(middle / alpha) > 0 else (low, middle)
    return (low + high) / 2
