import math
import zlib

import numpy as np

from lissom.packed import fixed_point
from lissom.packed.fixed_point import PROBABILITIES, lg, lg_of, logit_index


def margin(values: list[float]) -> float:
    """How far the nearest value is from where rounding changes its mind."""
    return min(abs(value - math.floor(value) - 0.5) for value in values)


def test_no_table_entry_depends_on_the_last_bit_of_a_library() -> None:
    assert margin([256 * math.log2(1 + f / 1024) for f in range(1024)]) > 1e-6
    assert margin([65536 / (1 + 2 ** (-i / 64)) for i in range(-768, 768)]) > 1e-6
    assert margin([0.5 + 1e-9]) < 1e-6  # the oracle can fail


def test_the_tables_are_those_of_the_format() -> None:
    assert zlib.crc32(PROBABILITIES.astype("<i8").tobytes()) == 0x366537B8
    assert zlib.crc32(fixed_point._FRACTIONS.astype("<i8").tobytes()) == 0x382F6567


def test_logarithms_are_close_and_the_same_one_by_one() -> None:
    values = np.concatenate([np.arange(1, 5000), 2 ** np.arange(52) + 1, 2 ** np.arange(1, 53) - 1])
    found = lg(values)
    assert np.abs(found - 256 * np.log2(values)).max() < 1
    assert found.tolist() == [lg_of(int(value)) for value in values]


def test_probabilities_rise_and_never_reach_certainty() -> None:
    assert (np.diff(PROBABILITIES) >= 0).all()
    assert PROBABILITIES[[0, 768, -1]].tolist() == [16, 32768, 65520]
    assert logit_index(np.array([-(10**6), -768, 0, 767, 10**6])).tolist() == [
        0,
        0,
        768,
        1535,
        1535,
    ]
