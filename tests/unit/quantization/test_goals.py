import itertools
import math

import pytest
import torch

from lissom.errors import RecipeError
from lissom.quantization.goals import FileBytes, MostDrop, Phases
from lissom.quantization.trim import Trimmable


def test_the_size_falls_by_equal_factors_to_a_little_above_the_limit():
    goal = FileBytes(1000, Phases(start=0.1, end=0.5))
    aims = [goal.aim(progress, 4000.0) for progress in (0.0, 0.1, 0.3, 0.5, 0.8)]
    assert aims[:2] == [4000, 4000]
    assert aims[2] == pytest.approx(math.sqrt(4000 * 1005))
    assert aims[3:] == pytest.approx([1005, 1005])
    other = FileBytes(1000, Phases(start=0.1, end=0.5))
    other.restore(goal.numbers())
    assert other.aim(0.3, 1234.0) == aims[2]


def test_a_file_that_is_small_enough_stays_as_it_is():
    goal = FileBytes(1000, Phases())
    assert [goal.aim(progress, 400.0) for progress in (0.0, 0.4, 0.8)] == [400, 400, 400]


@pytest.mark.parametrize(("allowed", "lost"), [(0.0, 3.0), (0.0, 0.0), (1e-3, 90.0), (1.0, -5e9)])
def test_no_drop_is_too_much_to_reckon_with(allowed, lost):
    goal = MostDrop(allowed, lambda: lost, Phases(start=0.0))
    aims = [goal.aim(step / 100, 1000.0) for step in range(50)]
    assert all(math.isfinite(aim) and aim >= 1 for aim in aims)
    assert (aims[-1] > 1000) == (lost > allowed)


def test_levels_fit_the_limit():
    levels = torch.arange(-5, 6, dtype=torch.int32)
    tensor = Trimmable(levels.double(), levels, torch.tensor(1.0), torch.ones(()))

    def size(given):
        return float(given["a"].abs().sum())

    found = FileBytes(12, Phases()).levels({"a": tensor}, size)
    assert size(found) <= 12
    kept = MostDrop(1.0, lambda: 0.0, Phases()).levels({"a": tensor}, size)
    assert torch.equal(kept["a"], levels)


def test_the_size_settles_where_the_drop_is_what_is_allowed():
    size = 8000.0

    def drop():  # doubles where the size is halved; 1 point at 2,000 bytes
        return 2000 / size

    phases = Phases(start=0.02, hold=0.8, weigh=40)
    goal = MostDrop(1.0, drop, phases)
    steps = [step / 400 for step in range(320)]
    for progress in steps:
        size = goal.aim(progress, size)
    assert size == pytest.approx(2000, rel=0.1)
    other = MostDrop(1.0, drop, phases)
    other.restore(goal.numbers())
    assert other.aim(0.79, 5.0) == size


def test_the_drop_is_judged_a_few_times_only():
    judged = []
    goal = MostDrop(1.0, lambda: judged.append(1) or 5.0, Phases(start=0.0, hold=0.8, weigh=10))
    aims = [goal.aim(step / 1000, 100.0) for step in range(800)]
    assert len(judged) == 10
    assert max(b / a for a, b in itertools.pairwise(aims)) == pytest.approx(1.1)


@pytest.mark.parametrize(
    "phases",
    [
        {"start": 0.6},
        {"end": 0.9},
        {"hold": 1.0},
        {"start": -0.1},
        {"every": 0},
        {"weigh": 0},
    ],
)
def test_refuses_phases_out_of_order(phases):
    with pytest.raises(RecipeError, match=next(iter(phases))):
        Phases(**phases)
