import dataclasses

import numpy as np
import pytest

from lissom.packed.bits import Writer
from lissom.packed.context import Side
from lissom.packed.levels import choose_side, planes, write_levels
from packed_samples import kernels
from packed_second_decoder import decode


@pytest.mark.parametrize("shape", [(6, 5, 3, 3), (4, 3, 5, 5), (5, 2, 1, 3), (9, 11, 1, 1)])
@pytest.mark.parametrize("loudest", [1, 40])
def test_a_decoder_written_from_the_page_reads_what_is_written(
    shape: tuple[int, ...], loudest: int
) -> None:
    levels = kernels(shape, 0.4, seed=loudest) * loudest
    for side in (choose_side(levels)[0], dataclasses.replace(_plain(levels), signs=6, kernel=5)):
        writer = Writer()
        write_levels(writer, levels, side)
        found = decode(writer.content(), shape, dataclasses.asdict(side))
        expected = planes(levels)
        assert all(expected[p, r, c] == value for (r, c, p), value in found.items())
        assert len(found) == levels.size


def test_this_oracle_can_fail() -> None:
    levels = kernels((6, 5, 3, 3), 0.4)
    writer = Writer()
    side = _plain(levels)
    write_levels(writer, levels, side)
    told = {**dataclasses.asdict(side), "kernel": 2}
    found = decode(writer.content(), levels.shape, told)
    assert any(planes(levels)[p, r, c] != value for (r, c, p), value in found.items())


def _plain(levels: np.ndarray) -> Side:
    side = choose_side(levels)[0]
    return Side(side.density, side.largest)
