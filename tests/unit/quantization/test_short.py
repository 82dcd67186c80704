from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lissom.quantization.short import fixed_point, short_float

BITS = st.integers(0, 10)
NUMBERS = st.floats(-1e9, 1e9, allow_nan=False)


def every_short_float(bits: int) -> np.ndarray:
    """All values that float16 holds whose mantissa ends in zeros."""
    patterns = np.arange(0x7C00, dtype=np.uint16)
    held = patterns.view(np.float16).astype(np.float64)
    digits, _ = np.frexp(held)
    whole = np.ldexp(digits, bits + 1)
    return held[whole == np.rint(whole)]


def nearest(value: float, bits: int) -> float:
    allowed = every_short_float(bits)
    return float(np.abs(allowed - abs(value)).min())


def one(value: float, bits: int) -> float:
    return float(short_float(torch.tensor([value], dtype=torch.float64), bits))


@given(NUMBERS | st.floats(-1, 1) | st.floats(-1e-6, 1e-6), BITS)
def test_short_floats_are_the_nearest_of_all(value: float, bits: int) -> None:
    found = one(value, bits)
    assert abs(found) in every_short_float(bits)
    assert abs(found - value) == pytest.approx(nearest(value, bits), rel=1e-12)


@given(st.floats(2.0**-14, 65504) | st.floats(-65504, -(2.0**-14)), BITS)
def test_short_floats_keep_their_relative_error(value: float, bits: int) -> None:
    if abs(value) <= (2 - 2.0**-bits) * 2**15:
        assert abs(one(value, bits) - value) <= 2.0 ** -(bits + 1) * abs(value)


def test_short_floats_saturate_and_flush() -> None:
    assert one(1e30, 3) == 61440
    assert one(-math.inf, 0) == -32768
    assert one(2.0**-25, 5) == 0
    assert one(1.5 * 2.0**-24, 10) == 2.0**-23
    assert one(0, 4) == 0


def test_short_floats_keep_the_shape() -> None:
    found = short_float(torch.rand(2, 3), 4)
    assert found.shape == (2, 3)
    assert found.dtype == torch.float32
    assert short_float(torch.zeros(0), 4).shape == (0,)
    assert short_float(torch.tensor(0.3), 2).item() == 0.3125


@given(NUMBERS, st.integers(-5, 10))
def test_fixed_point_is_within_half_a_step(value: float, exponent: int) -> None:
    step = 2.0**exponent
    values = torch.tensor(value / 1e4, dtype=torch.float64)
    found = fixed_point(values, step).double()
    assert abs(found - values) <= step / 2
    assert (found / step).frac() == 0


def test_fixed_point_zeros_have_no_sign() -> None:
    assert not torch.signbit(fixed_point(torch.tensor([-0.1]), 1.0)).any()


@pytest.mark.parametrize("step", [0.0, -1.0, 3.0, math.nan, math.inf])
def test_steps_are_powers_of_two(step: float) -> None:
    with pytest.raises(ValueError, match="expected a power of two"):
        fixed_point(torch.ones(1), step)


def test_what_can_not_be_rounded_is_named() -> None:
    with pytest.raises(ValueError, match="mantissa_bits=11; float16 has 0 to 10"):
        short_float(torch.ones(1), 11)
    with pytest.raises(ValueError, match="values hold NaN"):
        short_float(torch.tensor([math.nan]), 3)
    with pytest.raises(ValueError, match=r"values reach 2097152.0; expected below 0.125 2\^24"):
        fixed_point(torch.tensor([2.0**21]), 0.125)


def test_the_oracle_can_fail() -> None:
    assert nearest(1.3, 2) == pytest.approx(0.05)
    assert 1.3 not in every_short_float(2)
    assert abs(1.3 - 1.5) > nearest(1.3, 2)


def test_no_zero_has_a_sign() -> None:
    found = short_float(torch.tensor([-1e-9, -0.0, 1e-9]), 5)
    assert not torch.signbit(found).any()
