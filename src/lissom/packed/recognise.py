"""Find the levels in a weight that was quantized by whatever means."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lissom.packed.tensors import Levels, Packable, Stored

Floats = NDArray[np.float32]

_LARGEST = 1 << 15
_FEW_LEVELS = 1 << 8
_SMALLEST = 16  # the smallest magnitude may be this level
_FEWEST = 9  # values that a channel needs for a scale of its own
_SCALE_BITS = 8  # about, in the file


def packable(values: Tensor) -> Packable:
    """Give a tensor as levels if it is exactly that, to the bit, and else as it is.

    Where the scales of channels have few digits, the tensor has one scale too, of much larger
    levels: the smaller form is taken.

    Args:
        values: Any shape and type.
    """
    if values.dtype == torch.float32 and values.ndim >= 2 and values.numel():
        flat = values.detach().cpu().reshape(values.shape[0], -1).numpy()
        scales = (_scale(flat), _channel_scales(flat))
        found = [_levels(values, scale) for scale in scales if scale is not None]
        forms = [form for form in found if form is not None]
        if forms:
            return min(forms, key=_about_bits)
    return Stored(values)


def _about_bits(form: Levels) -> float:
    sizes = form.levels.abs().double()
    return float((1 + sizes).log2().sum()) + _SCALE_BITS * form.scale.numel()


def _levels(values: Tensor, scale: Tensor) -> Levels | None:
    by_channel = scale.reshape(-1, *([1] * (values.ndim - 1))) if scale.ndim else scale
    levels = torch.round(values.double() / by_channel.double())
    if not (levels.abs() < _LARGEST).all():
        return None
    found = Levels(levels.to(torch.int32), scale)
    bits = values.contiguous().view(torch.int32)
    return found if torch.equal(found.tensor().view(torch.int32), bits) else None


def _channel_scales(rows: Floats) -> Tensor | None:
    """Give a scale per row; a row of zeros has that of the row before, which costs least."""
    if rows.shape[1] < _FEWEST:
        return None
    scales: list[Tensor] = []
    waiting = 0
    for row in rows:
        if not row.any():
            scales += scales[-1:]
            waiting += not scales
            continue
        scale = _scale(row)
        if scale is None:
            return None
        scales += [scale] * (1 + waiting)
        waiting = 0
    return torch.stack(scales) if scales else None


def _scale(values: Floats) -> Tensor | None:
    """Give the largest scale of which all values are multiples; 1 if all are zero."""
    magnitudes = np.unique(np.abs(values))
    magnitudes = magnitudes[magnitudes > 0]
    if not len(magnitudes):
        return torch.tensor(1.0)
    if not np.isfinite(magnitudes).all():
        return None
    # Where hardly two values are alike, many levels are no sign of a quantizer.
    most = _LARGEST if 2 * len(magnitudes) <= values.size else _FEW_LEVELS
    for smallest in range(1, _SMALLEST + 1):
        near = np.float32(magnitudes[0] / np.float32(smallest))
        for scale in (near, np.nextafter(near, np.float32(0)), np.nextafter(near, np.float32(1))):
            if scale > 0 and _multiples(magnitudes, scale, most):
                return torch.tensor(scale)
    return None


def _multiples(magnitudes: Floats, scale: np.float32, most: int) -> bool:
    levels = np.rint(magnitudes.astype(np.float64) / float(scale))
    if levels[-1] >= most:
        return False
    return bool(np.array_equal(levels.astype(np.float32) * scale, magnitudes))
