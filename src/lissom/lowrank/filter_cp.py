"""Factor each filter of a kernel into a sum of products of three vectors (CP).

Pure mathematics: tensors in, tensors out, in double precision on the CPU, deterministic (no random
start). The error that is minimised is that of ``lissom.lowrank.factorize``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lissom.lowrank.alternating import conjugate_gradients
from lissom.lowrank.factorize import check_rank, double, like
from lissom.lowrank.metric import Metric, metric_for, square_roots

_SWEEPS = 60
# Under C. On five layers of ResNet-20 the first two rounds take off 1 to 60 % of the error that
# fitting the inputs alone leaves; five more take off 0 to 27 % of the rest.
_ROUNDS, _TURNS = 3, 2
_SETTLED = 1e-5  # relative gain of a sweep below which the alternation has converged
_RCOND = 1e-10  # directions of the normal equations below this share are null
_SAFE = 1e-3  # ratio of Cholesky's pivots above which none is near to that
_AT_ONCE = 1 << 21  # numbers in the products that are looked at together

Factors = tuple[Tensor, Tensor, Tensor]


def filter_cp(weight: Tensor, rank: int, *, covariance: Tensor | None = None) -> Factors:
    """Factor every filter alike: W[t,s,i,j] ~ sum_r first[t,r,s] core[t,r,i] last[t,r,j].

    Alternating least squares, all filters at once. For the weight's own error, or a channel-level
    C, each filter is first projected on its own input directions (at most kH kW), so that the
    alternation does not depend on S. For a patch-level C that is the start, and the factors then
    alternate under C itself. Full rank gives the weight back.

    Args:
        weight: ``(T, S, kH, kW)``.
        rank: R, 1 to min(S kH, S kW, kH kW).
        covariance: ``(S kH kW, S kH kW)`` in ``F.unfold`` order, or ``(S, S)``; None for the
            weight's own error.

    Returns:
        ``first (T, R, S)``, ``core (T, R, kH)``, ``last (T, R, kW)``; the three vectors of a
        product have equal norms.

    Raises:
        ValueError: A shape or rank does not fit, or a value is not finite.

    Source:
        Harshman, UCLA Working Papers in Phonetics 16, 1970 (ALS); Bro and Andersson, Chemometrics
        42, 1998 (compression); Pham, Zniyed and Nguyen, NORTON, IEEE TNNLS, 2024 (per filter).
    """
    if weight.ndim != 4:
        raise ValueError(f"filter_cp needs a kernel (T, S, kH, kW), got {tuple(weight.shape)}")
    check_rank("rank", rank, full_rank(*weight.shape[1:]))
    dense = double(weight)
    metric = metric_for(dense.flatten(2), covariance)
    if metric.is_patch_level and covariance is not None:
        factors = _whitened_fit(dense, rank, metric)
    else:
        factors = _channel_fit(dense, rank, metric.matrix)
    first, core, last = _balanced(factors)
    return (
        like(weight, first.transpose(1, 2)),
        like(weight, core.transpose(1, 2)),
        like(weight, last.transpose(1, 2)),
    )


def compose_filter_cp(first: Tensor, core: Tensor, last: Tensor) -> Tensor:
    """Give the dense kernel (T, S, kH, kW) that the factors of ``filter_cp`` stand for.

    It is laid out as channels last.
    """
    kernels = (core[:, :, :, None] * last[:, :, None]).flatten(2)  # (T, R, kH kW)
    composed = kernels.transpose(1, 2) @ first  # (T, kH kW, S)
    filters, _, channels = composed.shape
    shape = filters, core.shape[2], last.shape[2], channels
    return composed.reshape(shape).permute(0, 3, 1, 2)


def full_rank(channels: int, height: int, width: int) -> int:
    """Give the rank at which every filter (S, kH, kW) is exact."""
    return min(channels * height, channels * width, height * width)


def _channel_fit(dense: Tensor, rank: int, channels: Tensor) -> Factors:
    """Fit under a metric (S, S) of each position; give (T, S, R), (T, kH, R), (T, kW, R)."""
    root, inverse = square_roots(channels)
    white = torch.einsum("tsij,sa->taij", dense, root)
    directions, small = torch.linalg.qr(white.flatten(2))  # (T, S, n), (T, n, K)
    first, core, last = _alternate(small.reshape(len(small), -1, *dense.shape[2:]), rank)
    return inverse @ directions @ first, core, last


def _whitened_fit(dense: Tensor, rank: int, metric: Metric) -> Factors:
    """Fit under a patch-level metric, from the fit of the weight itself."""
    channels, *sizes = dense.shape[1:]
    factors = _channel_fit(dense, rank, torch.eye(channels, dtype=dense.dtype))
    if rank == full_rank(channels, *sizes):
        return factors
    pulled = metric.pulled(dense.flatten(2))
    for _ in range(_ROUNDS):
        factors = _fit_kernels(_fit_inputs(factors, pulled, metric), pulled, metric)
    return _fit_inputs(factors, pulled, metric)


def _alternate(tensor: Tensor, rank: int) -> Factors:
    """Fit all (n, h, w) of a batch (T, n, h, w) by alternating least squares."""
    if rank == full_rank(*tensor.shape[1:]):
        return _exact(tensor)
    factors = _start(tensor, rank)
    unfolded = [tensor.movedim(mode + 1, 1).flatten(2) for mode in range(3)]
    captured = 0.0
    for _ in range(_SWEEPS):
        energy = 0.0
        for mode in range(3):
            factors[mode], energy = _solve(unfolded[mode], factors, mode)
        if energy - captured <= _SETTLED * energy:
            break
        captured = energy
    return factors[0], factors[1], factors[2]


def _start(tensor: Tensor, rank: int) -> list[Tensor]:
    """Take the strongest products among the SVDs of each filter's principal kernels."""
    count, _, height, width = tensor.shape
    flat = tensor.flatten(2)
    values, vectors = torch.linalg.eigh(flat.transpose(1, 2) @ flat)  # (T, K), (T, K, K)
    kernels = vectors.transpose(1, 2).reshape(count, -1, height, width)
    left, strengths, right = torch.linalg.svd(kernels, full_matrices=False)
    energy = values.clamp_min(0)[:, :, None] * strengths.square()
    strongest = energy.flatten(1).argsort(dim=1, descending=True, stable=True)[:, :rank]
    left = left.transpose(2, 3).flatten(1, 2)  # (T, K min(h, w), h)
    right = right.flatten(1, 2)
    core = left.gather(1, strongest[:, :, None].expand(-1, -1, height))
    last = right.gather(1, strongest[:, :, None].expand(-1, -1, width))
    first = torch.zeros(count, tensor.shape[1], rank, dtype=tensor.dtype)
    return [first, core.transpose(1, 2), last.transpose(1, 2)]


def _exact(tensor: Tensor) -> Factors:
    """Give each tensor back: unit vectors along the two smaller modes, the largest solved."""
    count, *sizes = tensor.shape
    free = max(range(3), key=sizes.__getitem__)
    left, right = (mode for mode in range(3) if mode != free)
    factors = [torch.empty(0)] * 3
    one, two = (torch.eye(sizes[mode], dtype=tensor.dtype) for mode in (left, right))
    factors[left] = one.repeat_interleave(sizes[right], 1).expand(count, -1, -1)
    factors[right] = two.repeat(1, sizes[left]).expand(count, -1, -1)
    factors[free] = tensor.movedim(free + 1, 1).flatten(2)
    return factors[0], factors[1], factors[2]


def _solve(unfolded: Tensor, factors: list[Tensor], mode: int) -> tuple[Tensor, float]:
    """Give the best factor of one mode for the others, and the energy that is captured then."""
    one, two = (factors[other] for other in range(3) if other != mode)
    normal = (one.transpose(1, 2) @ one) * (two.transpose(1, 2) @ two)
    seen = unfolded @ (one[:, :, None] * two[:, None]).flatten(1, 2)
    solved = _divided(seen, normal)
    return solved, float((solved * seen).sum())


def _divided(seen: Tensor, normal: Tensor) -> Tensor:
    """Give X (T, n, R) in X normal = seen for symmetric normal matrices (T, R, R).

    By Cholesky where that is safe for all; else directions that are null get nothing.
    """
    root, failed = torch.linalg.cholesky_ex(normal)
    pivots = root.diagonal(dim1=1, dim2=2)
    if not bool(failed.any()) and bool((pivots.amin(1) > _SAFE * pivots.amax(1)).all()):
        return torch.cholesky_solve(seen.transpose(1, 2), root).transpose(1, 2)
    return seen @ torch.linalg.pinv(normal, rtol=_RCOND, hermitian=True)


def _fit_inputs(factors: Factors, pulled: Tensor, metric: Metric) -> Factors:
    """Improve the input factor under C for given kernels."""
    first, core, last = factors
    inner, left = metric.separated()[1], metric.outer_inverse
    kernels = torch.einsum("tir,tjr->tijr", core, last).flatten(1, 2)  # (T, K, R)
    normal = torch.einsum("tkr,kl,tlq->trq", kernels, inner, kernels)
    right = torch.linalg.pinv(normal, rtol=_RCOND, hermitian=True)
    first = conjugate_gradients(
        first,
        pulled,
        metric,
        lambda factor: factor @ kernels.transpose(1, 2),
        lambda rows: rows @ kernels,
        lambda residual: left @ residual @ right,
    )
    return first, core, last


def _fit_kernels(factors: Factors, pulled: Tensor, metric: Metric) -> Factors:
    """Solve for columns and rows in turn, under C for given inputs."""
    first, core, last = factors
    count, _, rank = first.shape
    sizes = rank, core.shape[1], last.shape[1]
    channels, places = metric.channels, metric.positions
    matrix = metric.matrix.reshape(channels, places, channels, places).transpose(2, 3)
    matrix = matrix.reshape(channels, -1)  # (S, K K S)
    seen = (first.transpose(1, 2) @ pulled).reshape(count, *sizes)
    parts = []
    for inputs in torch.split(first, max(1, _AT_ONCE // (rank * matrix.shape[1]))):
        half = (inputs.transpose(1, 2).flatten(0, 1) @ matrix).reshape(len(inputs), -1, channels)
        parts.append((half @ inputs).reshape(-1, rank, places, places, rank).transpose(3, 4))
    normal = torch.cat(parts).reshape(count, *sizes, *sizes)
    for _ in range(_TURNS):
        system = torch.einsum("trijquv,tjr,tvq->triqu", normal, last, last)
        core = _solved(system, torch.einsum("trij,tjr->tri", seen, last))
        system = torch.einsum("trijquv,tir,tuq->trjqv", normal, core, core)
        last = _solved(system, torch.einsum("trij,tir->trj", seen, core))
    return first, core, last


def _solved(system: Tensor, seen: Tensor) -> Tensor:
    """Solve (T, R, n, R, n) x = (T, R, n); give x as (T, n, R)."""
    count, rank, size = seen.shape
    solved = _divided(seen.reshape(count, 1, -1), system.reshape(count, rank * size, -1))
    return solved.reshape(count, rank, size).transpose(1, 2)


def _balanced(factors: Factors) -> Factors:
    """Give the vectors of each product equal norms; a product of zero stays zero."""
    norms = [part.norm(dim=1, keepdim=True).clamp_min(1e-300) for part in factors]
    mean = (norms[0].log() + norms[1].log() + norms[2].log()).div(3).exp()
    first, core, last = (part * (mean / norm) for part, norm in zip(factors, norms, strict=True))
    return first, core, last
