"""Second-order statistics of layer inputs, in one pass over calibration data."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissom.errors import DataError, ModelError
from lissom.progress import meter
from lissom.task import Task, on_copies

PATCH_LIMIT = 1500  # widest patch whose full covariance is kept; wider ones are kept per channel
BLOCK = 512  # inputs of a block, where not all pairs are kept
_POSITIONS = 128  # patches read per image: neighbouring patches overlap and say the same


def input_covariances(
    model: nn.Module,
    layers: Iterable[str],
    batches: Iterable[Any],
    task: Task,
    images: int,
    *,
    widest: int | None = None,
) -> dict[str, Tensor]:
    """Measure E[x x^T] of what each convolution or linear layer reads.

    Args:
        model: Network in eval mode; it is run, never changed.
        layers: Names of ungrouped ``Conv2d`` and ``Linear`` modules.
        batches: Calibration batches.
        task: Tells what of a batch is input.
        images: How many samples to read at most.
        widest: Of more inputs than this, only blocks along the diagonal are kept; None: all.

    Returns:
        Per layer a float32 matrix: (S k k, S k k) over unfolded patches in ``F.unfold`` order, or
        (S, S) over channels where S k k exceeds ``PATCH_LIMIT``. Patches see the padding as the
        layer does; the fallback over channels reads the inputs without it. With ``widest``, a wider
        one is (B, n, n), B blocks of n = ``BLOCK`` neighbouring inputs, filled up with zeros.

    Raises:
        DataError: There is no batch.
        ModelError: A named layer never ran, or its inputs are not finite.
    """
    names = list(layers)
    if not names:
        return {}
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def observe(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        rows = _samples(module, inputs[0])
        gram = _gram(rows, widest).double()
        sums[name] = sums[name] + gram if name in sums else gram
        counts[name] = counts.get(name, 0) + rows.shape[0]

    named = dict(model.named_modules())
    hooks = [
        named[name].register_forward_pre_hook(
            lambda module, inputs, name=name: observe(name, module, inputs)
        )
        for name in names
    ]
    try:
        seen = _run(model, batches, task, images)
    finally:
        for hook in hooks:
            hook.remove()
    if seen == 0:
        raise DataError("the calibration set gave no batch; statistics need some hundred samples")
    return _normalised(names, sums, counts)


def _gram(rows: Tensor, widest: int | None) -> Tensor:
    """Give the products of all inputs, (N, N), or those within blocks, (B, n, n)."""
    width = rows.shape[1]
    if widest is None or width <= widest:
        return rows.T @ rows
    count = -(-width // BLOCK)
    blocks = F.pad(rows, (0, count * BLOCK - width)).reshape(-1, count, BLOCK).transpose(0, 1)
    return blocks.transpose(1, 2) @ blocks


def _run(model: nn.Module, batches: Iterable[Any], task: Task, images: int) -> int:
    device = next(model.parameters()).device
    seen = 0
    with torch.no_grad(), meter("input statistics", images) as bar:
        for batch in batches:
            inputs = tuple(part.to(device) for part in task.inputs(batch))
            on_copies(model, inputs)
            seen += inputs[0].shape[0]
            bar.advance(inputs[0].shape[0])
            if seen >= images:
                break
    return seen


def _normalised(
    layers: list[str], sums: Mapping[str, Tensor], counts: Mapping[str, int]
) -> dict[str, Tensor]:
    covariances = {}
    for name in layers:
        if name not in sums:
            raise ModelError(
                f"{name}: never ran on the calibration data, so nothing is known of its inputs; "
                "add it to `ignore`"
            )
        covariance = (sums[name] / counts[name]).float()
        if not bool(torch.isfinite(covariance).all()):
            raise ModelError(
                f"{name}: reads values that are not finite; check the weights and the data"
            )
        covariances[name] = covariance
    return covariances


def _samples(module: nn.Module, inputs: Tensor) -> Tensor:
    """Give what the layer multiplies its weight with, one sample a row."""
    inputs = inputs.detach().float()
    if isinstance(module, nn.Linear):
        return inputs.reshape(-1, inputs.shape[-1])
    assert isinstance(module, nn.Conv2d)
    if inputs.dim() == 3:
        inputs = inputs.unsqueeze(0)
    width = inputs.shape[1] * module.kernel_size[0] * module.kernel_size[1]
    rows = _channels(inputs) if width > PATCH_LIMIT else patches(module, inputs, _POSITIONS)
    return rows.flatten(0, 1)


def patches(module: nn.Conv2d, inputs: Tensor, most: int) -> Tensor:
    """Give what a convolution reads at its output positions.

    Args:
        module: An ungrouped convolution.
        inputs: (batch, S, height, width).
        most: Of so many positions at most, spread over the image.

    Returns:
        (batch, positions, S k k), in ``F.unfold`` order; positions row by row where all are read.
    """
    padded = _padded(module, inputs)
    (height, width), (down, right) = padded.shape[-2:], module.stride
    rows, columns = (
        torch.arange(kernel, device=inputs.device) * dilation
        for kernel, dilation in zip(module.kernel_size, module.dilation, strict=True)
    )
    corners_down = torch.arange(0, height - int(rows[-1]), down, device=inputs.device)
    corners_right = torch.arange(0, width - int(columns[-1]), right, device=inputs.device)
    corners = (corners_down[:, None] * width + corners_right).flatten()
    corners = corners[_chosen(corners.numel(), most, inputs.device)]
    window = (rows[:, None] * width + columns).flatten()
    seen = padded.flatten(2)[:, :, corners[:, None] + window]  # (batch, S, positions, k k)
    return seen.transpose(1, 2).flatten(2)


def _padded(module: nn.Conv2d, inputs: Tensor) -> Tensor:
    """Pad as the layer itself would, whatever its mode."""
    sides = module._reversed_padding_repeated_twice  # (left, right, top, bottom)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return F.pad(inputs, sides, mode=mode)


def _channels(inputs: Tensor) -> Tensor:
    """Give chosen positions, (batch, positions, S)."""
    seen = inputs.flatten(2)
    return seen[:, :, _chosen(seen.shape[2], _POSITIONS, seen.device)].transpose(1, 2)


def _chosen(positions: int, most: int, device: torch.device) -> Tensor:
    """Spread indices over the image, in a pattern without a period."""
    if positions <= most:
        return torch.arange(positions, device=device)
    generator = torch.Generator().manual_seed(positions)
    return torch.randperm(positions, generator=generator)[:most].sort().values.to(device)


def loss_gradients(
    model: nn.Module, batches: Iterable[Any], task: Task, images: int
) -> dict[str, Tensor]:
    """Average the gradient of the loss with respect to every parameter, by state-dict name.

    Args:
        model: Network in eval mode; a copy is differentiated.
        batches: Calibration batches with targets.
        task: Gives inputs and loss.
        images: How many samples to read at most.

    Raises:
        DataError: There is no batch.
    """
    private = copy.deepcopy(model).requires_grad_()
    seen = 0
    for batch in batches:
        outputs = private(*task.inputs(batch))
        size = task.inputs(batch)[0].shape[0]
        (task.loss(outputs, batch) * size).backward()  # type: ignore[no-untyped-call]
        seen += size
        if seen >= images:
            break
    if seen == 0:
        raise DataError("the calibration set gave no batch; gradients need some hundred samples")
    return {
        name: parameter.grad / seen
        for name, parameter in private.named_parameters()
        if parameter.grad is not None
    }
