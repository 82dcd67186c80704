"""Levels of one layer at many steps at once: what each step costs in bits and in output error."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lissom.quantization.rate import code_lengths, magnitude_counts

LARGEST = 127  # magnitude: 8 bits with the sign
_DAMPING = 0.01  # of the covariance's mean diagonal
_BLOCK = 32  # columns whose errors are passed on together
ELEMENTS = 8_000_000  # of all copies of a weight that are worked on together
_PASSES = 2
_PRICE = 0.1  # of a bit, in s^2 times the curvature; flat between 0.07 and 0.14


@dataclass(frozen=True, slots=True)
class Rungs:
    """What a ladder of steps gives.

    Attributes:
        steps: s, float64, (J,).
        levels: q, int8, (J, *shape of the weight).
        bits: Zeroth-order code length of the levels, float64, (J,).
        errors: tr(dW C dW^T), float64, (J,).
    """

    steps: Tensor
    levels: Tensor
    bits: Tensor
    errors: Tensor


@dataclass(frozen=True, slots=True)
class Quadratic:
    """A weight as rows whose output errors add up, and what their outputs' energies are.

    Attributes:
        rows: (R, N), float64.
        blocks: E[x x^T] of what the rows are multiplied with, float64: squares along the diagonal
            of an (N, N) matrix that is 0 elsewhere.
        shape: Of the weight.
        channelwise: Whether a row is one kernel position of an output, over channels.
    """

    rows: Tensor
    blocks: tuple[Tensor, ...]
    shape: torch.Size
    channelwise: bool = False

    @classmethod
    def of(cls, weight: Tensor, covariance: Tensor | None) -> Quadratic:
        """Fit a weight and the covariance of its layer's inputs together.

        Args:
            weight: (T, S, ...).
            covariance: (S K, S K) over patches in ``F.unfold`` order, or (S, S) over channels: then
                each kernel position is taken by itself. Either may be given as blocks along its
                diagonal, (B, n, n), the last one filled up with zeros. None: independent inputs of
                unit energy.

        Raises:
            ValueError: The covariance is of another layer.
        """
        cube = weight.detach().to("cpu", torch.float64).reshape(*weight.shape[:2], -1)
        channels, positions = cube.shape[1], cube.shape[2]
        width = channels * positions
        if covariance is None:
            alone = torch.eye(_BLOCK, dtype=torch.float64).expand(-(-width // _BLOCK), -1, -1)
            return cls(cube.flatten(1), _blocks(alone, width), weight.shape)
        matrix = covariance.detach().to("cpu", torch.float64)
        matrix = matrix[None] if matrix.dim() == 2 else matrix
        if _spans(matrix, channels) and positions > 1:
            rows = cube.transpose(1, 2).reshape(-1, channels)
            return cls(rows, _blocks(matrix, channels), weight.shape, channelwise=True)
        if not _spans(matrix, width):
            raise ValueError(
                f"covariance has shape {tuple(covariance.shape)}; expected {width} over patches or "
                f"{channels} over channels"
            )
        return cls(cube.flatten(1), _blocks(matrix, width), weight.shape)

    def shaped(self, values: Tensor) -> Tensor:
        """Give (J, R, N) as (J, *shape of the weight)."""
        if self.channelwise:
            outputs, channels = self.shape[:2]
            values = values.reshape(len(values), outputs, -1, channels).transpose(2, 3)
        return values.reshape(len(values), *self.shape)

    @property
    def energy(self) -> float:
        """Give tr(W C W^T)."""
        return float(self.energies(self.rows))

    def energies(self, rows: Tensor) -> Tensor:
        """Give tr(X C X^T) of each (..., R, N), (...)."""
        parts = torch.split(rows, [len(block) for block in self.blocks], dim=-1)
        pairs = zip(parts, self.blocks, strict=True)
        return torch.stack([((x @ block) * x).sum(dim=(-2, -1)) for x, block in pairs]).sum(0)


def _spans(blocks: Tensor, width: int) -> bool:
    """Tell whether (B, n, n) blocks are those of so many inputs; a single one is not filled up."""
    count, size = blocks.shape[:2]
    return size == width if count == 1 else count == -(-width // size)


def _blocks(given: Tensor, width: int) -> tuple[Tensor, ...]:
    """Cut what fills the last block up."""
    *whole, last = given.unbind()
    rest = width - len(whole) * len(last)
    return (*whole, last[:rest, :rest])


def ladder(quadratic: Quadratic, steps: Tensor) -> Rungs:
    """Choose levels with error feedback at every step, and say what they cost.

    As ``error_feedback_levels``, with price 0.1 s^2 mean(1 / U_ii^2) of a bit, which is near the
    slope of the error over the bits at that very step, for all steps in one sweep: it takes hardly
    longer than for one. Of each weight only zero and its two neighbours on the grid are compared.

    Args:
        quadratic: Weight and covariance.
        steps: s > 0, (J,); those that would need magnitudes above 127 clip.

    Source:
        Frantar et al., ICLR 2023, arXiv:2210.17323, Sec. 3; price and ladder are ours.
    """
    factors = _inverse_factors(quadratic.blocks)
    steps = steps.to("cpu", torch.float64)
    together = max(ELEMENTS // max(quadratic.rows.numel(), 1), 1)
    levels, bits, errors = [], [], []
    for some in torch.split(steps, together):
        found = _levels(quadratic.rows, factors, some)
        counted = _lengths(found)
        bits.append(_charged(found, counted))
        change = quadratic.rows - some[:, None, None] * found
        errors.append(quadratic.energies(change))
        levels.append(quadratic.shaped(found).to(torch.int8))
    return Rungs(steps, torch.cat(levels), torch.cat(bits), torch.cat(errors))


def _inverse_factors(blocks: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Give U, upper triangular, with U^T U the inverse of the damped covariance, block by block."""
    mean = torch.cat([block.diagonal() for block in blocks]).mean()
    damping = (_DAMPING * mean).clamp_min(1e-12)
    return tuple(_inverse_factor(block, damping) for block in blocks)


def _inverse_factor(block: Tensor, damping: Tensor) -> Tensor:
    damped = block + damping * torch.eye(len(block), dtype=block.dtype)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky((inverse + inverse.T) / 2, upper=True)


def _levels(rows: Tensor, factors: tuple[Tensor, ...], steps: Tensor) -> Tensor:
    """Give (J, R, N): first with the code lengths of plain rounding, then with the result's."""
    # The geometric mean, for that is what the error at a given rate goes by.
    curvature = (-2 * torch.cat([one.diagonal() for one in factors]).log()).mean().exp()
    parts = torch.split(rows, [len(factor) for factor in factors], dim=1)
    found = (rows / steps[:, None, None]).round().clamp(-LARGEST, LARGEST)
    for _ in range(_PASSES):
        prices = _PRICE * curvature * _lengths(found)
        pairs = zip(parts, factors, strict=True)
        found = torch.cat([_sweep(part, factor, steps, prices) for part, factor in pairs], dim=2)
    return found


def _lengths(levels: Tensor) -> Tensor:
    """Give l(k) for each of J sets of levels, (J, 128), in bits; above the largest seen, more."""
    table = torch.empty(len(levels), LARGEST + 1, dtype=torch.float64)
    for row, some in zip(table, levels, strict=True):
        top = min(int(some.abs().max()) + 1, LARGEST)
        lengths = code_lengths(magnitude_counts(some, top)).double()
        row[: top + 1] = lengths
        row[top + 1 :] = lengths[-1] + 1
    return table


def _charged(levels: Tensor, lengths: Tensor) -> Tensor:
    """Add up the code lengths, (J,)."""
    return lengths.gather(1, levels.abs().to(torch.int64).flatten(1)).sum(dim=1)


def _sweep(rows: Tensor, factor: Tensor, steps: Tensor, prices: Tensor) -> Tensor:
    """Go over the columns once.

    Args:
        rows: (R, N).
        factor: U, (N, N).
        steps: (J,).
        prices: What each magnitude costs in squared steps of the output, (J, K).
    """
    (count, width), copies = rows.shape, len(steps)
    # Columns first: each is then one piece of memory, all copies together.
    left = rows.T[:, None, :].expand(width, copies, count).reshape(width, -1).clone()
    chosen = torch.empty_like(left)
    scale = steps.repeat_interleave(count)
    table = prices.flatten()
    start = (torch.arange(copies) * prices.shape[1]).repeat_interleave(count)
    for first in range(0, width, _BLOCK):
        last = min(first + _BLOCK, width)
        errors = torch.empty(last - first, left.shape[1], dtype=left.dtype)
        for i in range(first, last):
            pivot = float(factor[i, i])
            chosen[i] = _cheapest(left[i] / scale, table * pivot**2, start)
            errors[i - first] = (left[i] - scale * chosen[i]) / pivot
            left[i + 1 : last].addr_(factor[i, i + 1 : last], errors[i - first], alpha=-1)
        left[last:].addmm_(factor[first:last, last:].T, errors, alpha=-1)
    return chosen.reshape(width, copies, count).permute(1, 2, 0)


def _cheapest(values: Tensor, prices: Tensor, start: Tensor) -> Tensor:
    """Give the cheapest of zero and the two neighbours, signed.

    Args:
        values: Weights in steps, (M,).
        prices: Of the magnitudes, tables one after the other, in squared steps.
        start: Where the table of each weight begins, (M,).
    """
    sizes = values.abs()
    below = sizes.floor().clamp_max_(LARGEST - 1)
    entry = below.to(torch.int64).add_(start)
    low = (sizes - below).square_().add_(prices[entry])
    high = (sizes - below - 1).square_().add_(prices[entry + 1])
    level = below + (high < low)
    none = sizes.square().add_(prices[start])
    level.masked_fill_(none <= torch.minimum(low, high), 0)
    return torch.copysign(level, values)
