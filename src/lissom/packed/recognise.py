"""Find the levels in a weight that was quantized by whatever means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import itemgetter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lissom.packed.numbers import middle, whole_numbers
from lissom.packed.stored_chunk import narrowest
from lissom.packed.tensors import Levels, Packable, Stored

Floats = NDArray[np.float32]

_LARGEST = 1 << 15
_FEW_LEVELS = 1 << 8
_SMALLEST = 255  # the smallest magnitude may be this level
_PROBES = 16  # magnitudes that are looked at before all
_ROUND = 12  # digits of a mantissa, up to which scales are taken for short floats
_SHORT = 9  # values of a channel below which a scale of its own may save nothing
_SAMPLE = 4096  # values that say what a tensor takes as it is
_SCALE_BITS = 8  # about, in the file


def packable(values: Tensor) -> Packable:
    """Give a tensor as levels if it is exactly that, and else as it is.

    Of levels a zero has no sign: -0, which rounding and masks leave, becomes 0, its equal. All else
    stays to the bit. Where the scales of channels have few digits, the tensor has one scale too, of
    much larger levels: the smaller form is taken.

    Args:
        values: Any shape and type.
    """
    if values.dtype == torch.float32 and values.ndim >= 2 and values.numel():
        unsigned = values.detach().cpu() + 0.0
        flat = unsigned.reshape(values.shape[0], -1).numpy()
        scales = (_scale(flat), _channel_scales(flat))
        found = [_levels(unsigned, scale) for scale in scales if scale is not None]
        forms = [form for form in found if form is not None]
        best = min(forms, key=_about_bits, default=None)
        if best is not None and _saves(best, values):
            return best
    return Stored(values)


def _about_bits(form: Levels) -> float:
    return _level_bits(form) + _SCALE_BITS * form.scale.numel()


def _level_bits(form: Levels) -> float:
    return float((1 + form.levels.abs().double()).log2().sum()) + form.levels.numel()


def _saves(form: Levels, values: Tensor) -> bool:
    """Tell whether levels take less than the values; of few values to a scale they need not."""
    if not form.scale.ndim or values[0].numel() >= _SHORT:
        return True
    plain = _value_bits(values) * values.numel()
    return _level_bits(form) + _value_bits(form.scale) * form.scale.numel() < plain


def _value_bits(values: Tensor) -> float:
    """Say about how many bits a value takes as it is."""
    some = values.detach().cpu().flatten()[:_SAMPLE]
    found = whole_numbers(some)
    if found is None:
        return 8.0 * narrowest(values).itemsize
    away = np.abs(found[2] - middle(found[2])).astype(np.float64)
    return 1 + float(np.frexp(away)[1].mean())  # bit lengths


def _levels(values: Tensor, scale: Tensor) -> Levels | None:
    by_channel = scale.reshape(-1, *([1] * (values.ndim - 1))) if scale.ndim else scale
    levels = torch.round(values.double() / by_channel.double())
    if not (levels.abs() < _LARGEST).all():
        return None
    found = Levels(levels.to(torch.int32), scale)
    bits = values.contiguous().view(torch.int32)
    return found if torch.equal(found.tensor().view(torch.int32), bits) else None


def _channel_scales(rows: Floats) -> Tensor | None:
    """Give a scale per row; a row of zeros has that of the row before, which costs least.

    A row of few levels is also one of larger levels times a smaller scale, which may have fewer
    digits; the scales of a tensor share their number of digits.
    """
    sounding = [number for number, row in enumerate(rows) if row.any()]
    scales: dict[int, np.float32] = {}
    for number in sounding:
        largest = next(_scales(rows[number]), None)
        if largest is None:
            return None
        scales[number] = largest
    if not scales:
        return None
    scales |= _with_fewer_digits(rows, scales)
    heard = sounding[0]
    told = [scales[heard := number if number in scales else heard] for number in range(len(rows))]
    return torch.from_numpy(np.array(told))


def _with_fewer_digits(rows: Floats, scales: Mapping[int, np.float32]) -> Mapping[int, np.float32]:
    """Give what rows whose scale has more digits than most should have instead."""
    digits_of = sorted(map(_digits, scales.values()))
    usual = digits_of[3 * len(digits_of) // 4]  # of short floats every other has all its digits
    odd = [number for number, scale in scales.items() if _digits(scale) > usual]
    if usual > _ROUND or not odd:
        return {}
    options = {number: list(_scales(rows[number])) for number in odd}
    found: list[tuple[float, dict[int, np.float32]]] = []
    for digits in range(usual, digits_of[-1] + 1):
        fit = {n: [one for one in some if _digits(one) <= digits] for n, some in options.items()}
        if all(fit.values()):
            chosen = {number: some[0] for number, some in fit.items()}
            levels = (np.abs(rows[number]) / one for number, one in chosen.items())
            bits = sum(float(np.log2(1 + some).sum()) for some in levels)
            found.append((digits * len(scales) + bits, chosen))
    return min(found, key=itemgetter(0))[1]


def _scale(values: Floats) -> Tensor | None:
    """Give the largest scale of which all values are multiples; 1 if all are zero."""
    if not values.any():
        return torch.tensor(1.0)
    scale = next(_scales(values), None)
    return None if scale is None else torch.tensor(scale)


def _scales(values: Floats) -> Iterator[np.float32]:
    """Yield scales of which all values, not all of them zero, are multiples, the largest first."""
    magnitudes = np.unique(np.abs(values))
    magnitudes = magnitudes[magnitudes > 0]
    if not np.isfinite(magnitudes).all():
        return
    # Where hardly two values are alike, many levels are no sign of a quantizer.
    most = _LARGEST if 2 * len(magnitudes) <= values.size else _FEW_LEVELS
    probes = magnitudes[np.linspace(0, len(magnitudes) - 1, _PROBES).astype(np.int64)]
    for first, last in ((1, 9), (9, _SMALLEST + 1)):
        near = magnitudes[0] / np.arange(first, last, dtype=np.float32)
        below, above = np.nextafter(near, np.float32(0)), np.nextafter(near, np.float32(1))
        tries = np.stack([near, below, above], axis=1).ravel()
        tries = tries[tries > 0]
        for scale in tries[_divide(tries, probes, most)]:
            if len(magnitudes) <= _PROBES or _divide(scale[None], magnitudes, most)[0]:
                yield scale


def _divide(scales: Floats, magnitudes: Floats, most: int) -> NDArray[np.bool_]:
    """Tell which scales all magnitudes are multiples of, below ``most`` times."""
    levels = np.rint(magnitudes.astype(np.float64) / scales[:, None].astype(np.float64))
    levels = np.minimum(levels, most)
    exact = levels.astype(np.float32) * scales[:, None] == magnitudes
    return (exact & (levels < most)).all(axis=1)


def _digits(scale: np.float32) -> int:
    """Count the digits of a mantissa behind its leading one."""
    mantissa = int(scale.view(np.int32)) & ((1 << 23) - 1)
    return 24 - (mantissa & -mantissa).bit_length() if mantissa else 0
