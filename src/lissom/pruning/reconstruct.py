"""Repair a layer that has lost inputs, in closed form, and measure what the loss costs it.

Pure mathematics: tensors in, tensors out, double precision inside. A covariance C = E[x x^T] is
(S K, S K) over patches in ``F.unfold`` order, or (S, S) over channels, for weights (T, S, kH, kW)
with K = kH kW, or (T, S). It is damped by ``ridge`` of its mean diagonal, so that inputs which the
data never showed neither vanish nor explode.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

RIDGE = 1e-4
_GONE = -2  # owner of columns that were removed; -1 owns those that never can be


def reconstruct(
    weight: Tensor, keep_inputs: Sequence[int], covariance: Tensor, ridge: float = RIDGE
) -> Tensor:
    """Give the weight on the kept inputs that comes closest to the old output.

    W_K = W C[:, K] C[K, K]^-1 minimises E||W x - W_K x_K||^2. Keeping everything changes nothing.

    Args:
        weight: ``(T, S, kH, kW)`` or ``(T, S)``; no grouped convolution.
        keep_inputs: Indices along axis 1, strictly increasing.
        covariance: E[x x^T] of the layer's inputs before the cut.
        ridge: Damping, as a fraction of C's mean diagonal.

    Returns:
        ``(T, len(keep_inputs), ...)``, of the type and on the device of ``weight``.

    Raises:
        ValueError: The covariance does not belong to the weight, or an index does not exist.
    """
    rows, matrix = _rows_and_metric(weight, covariance, ridge)  # (T, J, N), (N, N)
    index = _columns(weight, keep_inputs, matrix.shape[0])
    if len(keep_inputs) == weight.shape[1]:
        return weight.detach().clone()
    target = rows @ matrix[:, index]
    kept = matrix[index][:, index]
    solved = torch.linalg.solve(kept, target.flatten(0, 1).T).T
    return _unrows(solved, weight, len(keep_inputs))


def output_error(
    weight: Tensor, new_weight: Tensor, covariance: Tensor, ridge: float = 0.0
) -> float:
    """Give the relative error of the output: tr(D C D^T) / tr(W C W^T), D = W - W'.

    Args:
        weight: The weight W, ``(T, S, kH, kW)`` or ``(T, S)``.
        new_weight: W', of the same shape; zeros where inputs are gone.
        covariance: E[x x^T] of the layer's inputs.
        ridge: Damping, as a fraction of C's mean diagonal.

    Raises:
        ValueError: Shapes differ, or the covariance does not belong to the weight.
    """
    if weight.shape != new_weight.shape:
        raise ValueError(
            f"the weights have shapes {tuple(weight.shape)} and {tuple(new_weight.shape)}; "
            "expected "
            "equal ones, zeros where inputs are gone"
        )
    rows, matrix = _rows_and_metric(weight, covariance, ridge)
    change = rows - _rows_and_metric(new_weight, covariance, ridge)[0]
    whole = _energy(rows, matrix)
    return _energy(change, matrix) / whole if whole > 0 else 0.0


class Reader:
    """A layer that reads the channels in question; what removing some of them costs its output.

    Keeps the inverse covariance of the inputs that remain and the weight as reconstructed on them,
    so that channels can be removed one after another.

    Source:
        Hassibi and Stork, Second order derivatives for network pruning: Optimal brain surgeon,
        NeurIPS 1992, Eqs. 5-6, for blocks of inputs.
    """

    def __init__(
        self,
        weight: Tensor,
        covariance: Tensor | None = None,
        labels: Sequence[int] | None = None,
        ridge: float = RIDGE,
    ) -> None:
        """Prepare.

        Args:
            weight: ``(T, S, kH, kW)`` or ``(T, S)``.
            covariance: E[x x^T]; None takes all inputs as independent and equally strong.
            labels: Per index along axis 1 the channel it belongs to, -1 for none; None: its own.
            ridge: Damping, as a fraction of C's mean diagonal.

        Raises:
            ValueError: The covariance does not belong to the weight.
        """
        inputs = weight.shape[1]
        if covariance is None:
            covariance = torch.eye(inputs, dtype=torch.float64)
        self._rows, matrix = _rows_and_metric(weight, covariance, ridge)
        whole = _energy(self._rows, matrix)
        self._rows = self._rows.flatten(0, 1) / (whole**0.5 if whole > 0 else 1.0)  # (T J, N)
        self._inverse = torch.linalg.inv(matrix)
        owners = torch.arange(inputs) if labels is None else torch.tensor(list(labels))
        self._owners = owners.repeat_interleave(matrix.shape[0] // inputs)

    def harms(self, channels: int) -> Tensor:
        """Give, per channel, the growth of the relative output error if it goes next.

        What remains is reconstructed: tr(W_B (C^-1)_BB^-1 W_B^T) over the channel's columns B. Zero
        for channels that are gone or never read.

        Args:
            channels: How many channels there are.

        Returns:
            (channels,), double precision.
        """
        order = self._owners.argsort(stable=True)
        order = order[self._owners[order] >= 0]
        counts = self._owners[order].bincount(minlength=channels)
        starts = counts.cumsum(0) - counts
        harms = torch.zeros(channels, dtype=torch.float64)
        for size in sorted(set(counts.tolist())):
            if size == 0:
                continue
            same = (counts == size).nonzero().flatten()  # (c,)
            columns = order[starts[same, None] + torch.arange(size)]  # (c, size)
            blocks = self._inverse[columns[:, :, None], columns[:, None, :]]  # (c, size, size)
            weights = self._rows[:, columns].movedim(0, 2)  # (c, size, T J)
            harms[same] = (weights * torch.linalg.solve(blocks, weights)).sum((1, 2))
        return harms

    def remove(self, channel: int) -> None:
        """Remove a channel and reconstruct what remains."""
        gone = (self._owners == channel).nonzero().flatten()
        if not len(gone):
            return
        block = self._inverse[gone][:, gone]
        across = torch.linalg.solve(block, self._inverse[gone])  # (gone, N)
        self._rows.addmm_(self._rows[:, gone], across, alpha=-1)
        self._inverse.addmm_(self._inverse[:, gone], across, alpha=-1)
        self._owners[gone] = _GONE
        # Columns that are gone hold zeros; dropping them rarely is cheaper than every time.
        left = (self._owners != _GONE).nonzero().flatten()
        if 2 * len(left) < len(self._owners):
            self._rows, self._owners = self._rows[:, left], self._owners[left]
            self._inverse = self._inverse[left][:, left]


def reconstruction_harm(weight: Tensor, covariance: Tensor | None = None) -> Tensor:
    """Give, per input channel, the relative output error of a layer that loses this channel alone.

    Args:
        weight: ``(T, S, kH, kW)`` or ``(T, S)``.
        covariance: E[x x^T] of the inputs; None takes them as independent and equally strong.

    Returns:
        (S,), double precision; higher = keep.

    Raises:
        ValueError: The covariance does not belong to the weight.
    """
    return Reader(weight, covariance).harms(weight.shape[1])


def removal_harms(readers: Sequence[Reader], channels: int) -> Tensor:
    """Give, per channel, the error reached when greedy backward elimination removes it.

    The channel whose loss costs all readers together the least goes first, the readers are
    reconstructed, and so on. The ``k`` channels with the highest values are the greedy choice of
    ``k``, for every k at once.

    Args:
        readers: The layers that read the channels; used up.
        channels: How many there are.

    Returns:
        (channels,), double precision, distinct in the order of removal up to rounding.
    """
    reached, total = torch.zeros(channels, dtype=torch.float64), 0.0
    left = torch.ones(channels, dtype=torch.bool)
    for _ in range(channels):
        harms = torch.stack([reader.harms(channels) for reader in readers]).sum(0)
        harms[~left] = torch.inf
        first = int(harms.argmin())
        total += max(float(harms[first]), 0.0)
        reached[first] = total
        left[first] = False
        for reader in readers:
            reader.remove(first)
    return reached


def greedy_kept(readers: Sequence[Reader], channels: int, keep: int) -> tuple[int, ...]:
    """Give the channels that greedy backward elimination leaves.

    Args:
        readers: The layers that read the channels; used up.
        channels: How many there are.
        keep: How many to keep, 1 to ``channels``.

    Raises:
        ValueError: ``keep`` is out of range.
    """
    if not 1 <= keep <= channels:
        raise ValueError(f"keep={keep}, expected 1 to {channels}")
    order = removal_harms(readers, channels).argsort(stable=True)
    return tuple(sorted(order[channels - keep :].tolist()))


def _rows_and_metric(weight: Tensor, covariance: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Give the weight as (T, J, N) and the damped (N, N) that acts on N."""
    channels = weight.shape[1]
    dense = weight.detach().to("cpu", torch.float64).reshape(weight.shape[0], channels, -1)
    width = channels * dense.shape[2]
    if tuple(covariance.shape) not in ((width, width), (channels, channels)):
        raise ValueError(
            f"covariance has shape {tuple(covariance.shape)}, the weight {tuple(weight.shape)}; "
            "expected "
            f"({width}, {width}) over patches or ({channels}, {channels}) over channels, and a "
            "convolution with groups=1"
        )
    is_patch_level = covariance.shape[0] == width
    rows = dense.flatten(1).unsqueeze(1) if is_patch_level else dense.transpose(1, 2)
    return rows, _damped(covariance, ridge)


def _damped(covariance: Tensor, ridge: float) -> Tensor:
    matrix = covariance.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(matrix).all()):
        raise ValueError("the covariance holds values that are not finite; check the data")
    matrix = (matrix + matrix.T) / 2
    scale = float(matrix.diagonal().mean())
    if scale <= 0 and ridge > 0:
        return torch.eye(matrix.shape[0], dtype=torch.float64)
    return matrix + ridge * scale * torch.eye(matrix.shape[0], dtype=torch.float64)


def _energy(rows: Tensor, matrix: Tensor) -> float:
    return float((rows @ matrix * rows).sum())


def _columns(weight: Tensor, keep_inputs: Sequence[int], width: int) -> Tensor:
    inputs = weight.shape[1]
    keep = torch.tensor(list(keep_inputs), dtype=torch.long)
    if not len(keep) or int(keep.min()) < 0 or int(keep.max()) >= inputs:
        raise ValueError(
            f"the weight has {inputs} inputs; expected at least one index below that to keep, got "
            f"{list(keep_inputs)[:8]}"
        )
    if bool((keep.diff() <= 0).any()):
        raise ValueError("the indices to keep must be strictly increasing")
    places = width // inputs
    return (keep[:, None] * places + torch.arange(places)).flatten()


def _unrows(solved: Tensor, weight: Tensor, kept: int) -> Tensor:
    """Bring (T J, n) back to (T, kept, kH, kW)."""
    outputs, kernel = weight.shape[0], weight.shape[2:]
    rows = solved.reshape(outputs, -1, solved.shape[1])  # (T, J, n)
    dense = rows if rows.shape[1] == 1 else rows.transpose(1, 2)
    return dense.reshape(outputs, kept, *kernel).to(weight.device, weight.dtype).contiguous()
