import pytest
import torch

from lissom.methods.importance import cuts_of, importances, kept_at
from lissom.methods.units import units_of
from method_samples import small_view


@pytest.fixture(scope="module")
def view():
    return small_view()


@pytest.fixture(scope="module")
def units(view):
    return units_of(view.graph, ())


@pytest.mark.parametrize("criterion", ["reconstruction", "l1", "fpgm", "bn_scale", "taylor"])
def test_every_group_is_scored(view, units, criterion):
    units = [unit for unit in units if unit.name != "c"]  # which has no batch norm
    scores = importances(units, view, criterion, {})
    assert {name: tuple(one.shape) for name, one in scores.items()} == {"stem": (16,), "a": (24,)}


def test_taylor_reads_gradients_of_the_calibration_data(view, units):
    scores = importances(units, view, "taylor", {})
    assert not torch.allclose(scores["a"], importances(units, view, "l1", {})["a"])


def test_cuts_are_aligned_nested_by_score_and_stop_at_a_tenth(units):
    scores = {unit.name: torch.arange(unit.group.channels) for unit in units if unit.group}
    cuts = cuts_of(units, scores, 8)
    assert cuts["a"] == (tuple(range(8, 24)), tuple(range(16, 24)))
    free = cuts_of(units, scores, 1)
    assert [len(kept) for kept in free["a"]] == list(range(23, 1, -1))
    assert "head" not in cuts


def test_the_highest_scores_stay(units):
    group = next(unit.group for unit in units if unit.name == "a")
    scores = torch.zeros(24)
    scores[[3, 17]] = 1.0
    assert kept_at(group, scores, 2) == (3, 17)
