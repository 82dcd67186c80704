from itertools import cycle
from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from lissom.methods.post_training_search import chosen
from lissom.quantization.steering import FileSize

LIMIT, OTHERS = 1000, 60


class Ladder:
    """Gives for levels the number of bits that was asked for."""

    fewest_bits = 40.0

    def __init__(self):
        self.asked = []

    def levels_for(self, bits):
        assert bits >= self.fewest_bits
        self.asked.append(bits)
        return Bits(bits)


class Bits(dict):
    def __init__(self, bits):
        super().__init__()
        self.bits = bits


def searched(size):
    """Give the bits asked for, one by one, and those that were chosen."""
    ladder, view = Ladder(), SimpleNamespace(model=nn.Linear(1, 1), recalibrate=None)
    forming = SimpleNamespace(weigh=lambda _, levels: FileSize(size(levels.bits), OTHERS))
    _, levels, _ = chosen(view, SimpleNamespace(limit=LIMIT), forming, ladder)
    return ladder.asked, levels.bits


@pytest.mark.parametrize("factor", [0.05, 0.11, 0.125, 0.2])
def test_the_file_comes_close_to_the_limit_from_below(factor):
    _, bits = searched(lambda asked: round(factor * asked))
    assert 0.995 * LIMIT <= OTHERS + round(factor * bits) <= LIMIT


def test_one_size_out_of_line_costs_little():
    sizes = iter([2400])
    _, bits = searched(lambda asked: next(sizes, round(0.1 * asked)))
    assert 0.8 * LIMIT <= OTHERS + 0.1 * bits <= LIMIT


@given(step=st.floats(1.0, 30.0), factor=st.floats(0.08, 0.16), over=st.integers(1, 20))
@example(step=30.0, factor=0.1, over=13)
def test_stairs_that_miss_by_a_few_bytes_are_left_downwards(step, factor, over):
    start = LIMIT - OTHERS + over  # some stair ends right above the limit
    _, bits = searched(lambda asked: round(start + step * ((factor * asked - start) // step)))
    found = OTHERS + round(start + step * ((factor * bits - start) // step))
    assert LIMIT - 4 * step - 20 <= found <= LIMIT


@given(st.lists(st.floats(0.02, 0.5), min_size=8, max_size=8))
@example([0.1, 0.5, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
def test_the_largest_that_was_seen_to_fit_is_taken(factors):
    rates = cycle(factors)
    seen = {}

    def size(asked):
        seen[asked] = round(next(rates) * asked)
        return seen[asked]

    asked, bits = searched(size)
    fitting = [one for one in seen if OTHERS + seen[one] <= LIMIT]
    if fitting:
        assert bits == max(fitting)
    else:
        assert bits == Ladder.fewest_bits
    assert len(set(asked)) >= len(seen)
