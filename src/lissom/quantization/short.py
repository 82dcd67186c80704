"""Round small vectors to values that a file can say in few bits."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

_FINEST = -24  # float16 holds multiples of 2^-24 only
_LARGEST = 15  # and exponents up to this
_MANTISSA = 10


def short_float(values: Tensor, mantissa_bits: int) -> Tensor:
    """Round to the nearest float of ``mantissa_bits`` that float16 holds exactly.

    The relative error is at most 2^-(mantissa_bits + 1) for magnitudes in [2^-14, 2^16); larger
    ones become the largest such float, (2 - 2^-mantissa_bits) 2^15. Below 2^-14 the values are
    multiples of 2^-24 as well, so that the error is at most 2^-25 where that is more, and
    magnitudes up to 2^-25 become 0. Ties go to the even neighbour.

    Args:
        values: Any shape, a floating point type, without NaN.
        mantissa_bits: Explicit ones, behind the leading one, in [0, 10].

    Returns:
        float32, of the same shape.

    Raises:
        ValueError: ``mantissa_bits`` is out of range, or a value is NaN.
    """
    if not 0 <= mantissa_bits <= _MANTISSA:
        raise ValueError(f"mantissa_bits={mantissa_bits}; float16 has 0 to {_MANTISSA}")
    exact = values.detach().cpu().double().numpy()
    if np.isnan(exact).any():
        raise ValueError("values hold NaN, which has no nearest float; expected numbers")
    _, exponents = np.frexp(exact)  # magnitudes in [2^(e-1), 2^e)
    places = np.maximum(exponents - 1 - mantissa_bits, _FINEST)
    rounded = np.ldexp(np.rint(np.ldexp(exact, -places)), places)
    largest = math.ldexp(2 - 2.0**-mantissa_bits, _LARGEST)
    # + 0: a zero with a sign is one more value to tell apart.
    found = torch.from_numpy(np.asarray(np.clip(rounded, -largest, largest) + 0.0))
    return found.to(values.device, torch.float32)


def fixed_point(values: Tensor, step: float) -> Tensor:
    """Round to the nearest multiple of a power of two; the error is at most half of it.

    Args:
        values: Any shape, a floating point type, magnitudes below 2^24 ``step``.
        step: A power of two.

    Returns:
        float32, of the same shape; zeros have no sign.

    Raises:
        ValueError: ``step`` is no power of two, or float32 can't hold a multiple.
    """
    if not step > 0 or math.frexp(step)[0] != 0.5:
        raise ValueError(f"step={step}; expected a power of two")
    multiples = (values.detach().double() / step).round()
    if not (multiples.abs() < 1 << 24).all():
        raise ValueError(f"values reach {float(values.abs().max())}; expected below {step} 2^24")
    return (multiples * step).to(torch.float32) + 0.0
