"""The search against brute force, the curves, and the sweep of tau, on random problems."""

from __future__ import annotations

import math
import random
from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lissom.graph.layers import ChannelGroup
from lissom.methods.grouping import Difference, Rule, labels_of, three_means
from lissom.methods.units import Unit
from lissom.plan.cost import Cost
from lissom.search.curves import HarmCurve
from lissom.search.lagrangian import Problem, fill, solve

seeds = st.integers(0, 100_000)


def random_problem(seed: int, limits: int = 1) -> Problem:
    """One to five items whose stronger options harm more and cost less in every quantity."""
    draw = random.Random(seed)
    harms, costs = [], []
    for _ in range(draw.randint(1, 5)):
        options = draw.randint(1, 4)
        harms.append([0.0, *sorted(draw.expovariate(1.0) for _ in range(options))])
        columns = [
            sorted((draw.uniform(1, 10) for _ in range(options + 1)), reverse=True)
            for _ in range(limits)
        ]
        costs.append(list(zip(*columns, strict=True)))

    def price(choice):
        taken = [item[option] for item, option in zip(costs, choice, strict=True)]
        return tuple(sum(column) for column in zip(*taken, strict=True))

    whole = price((0,) * len(harms))
    return Problem(harms, price, tuple(draw.uniform(0.15, 1.0) * cost for cost in whole))


def brute_force(problem: Problem) -> float | None:
    choices = product(*(range(len(harms)) for harms in problem.harms))
    return min((problem.harm(c) for c in choices if problem.fits(c)), default=None)


def hull_gap(problem: Problem) -> float:
    """Give the largest step of harm between neighbours on the items' lower convex hulls."""
    largest = 0.0
    for item, harms in enumerate(problem.harms):
        start = (0,) * len(problem.harms)
        costs = [
            problem.price((*start[:item], option, *start[item + 1 :]))[0]
            for option in range(len(harms))
        ]
        hull = [0]
        while hull[-1] < len(harms) - 1:
            at = hull[-1]
            hull.append(
                min(
                    range(at + 1, len(harms)),
                    key=lambda o: (harms[o] - harms[at]) / max(costs[at] - costs[o], 1e-12),
                )
            )
        largest = max(largest, *(harms[b] - harms[a] for a, b in pairwise(hull)))
    return largest


def check(problem: Problem, choice) -> None:
    best = brute_force(problem)
    assert (choice is None) == (best is None)
    if choice is not None:
        assert problem.fits(choice)
        assert best - 1e-9 <= problem.harm(choice) <= best + hull_gap(problem) + 1e-9


@given(seeds)
@settings(max_examples=150, deadline=None)
def test_one_limit_is_met_within_the_hull_gap_of_brute_force(seed):
    problem = random_problem(seed)
    check(problem, solve(problem))


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_two_limits_are_met_whenever_they_can_be(seed):
    problem = random_problem(seed, limits=2)
    choice = solve(problem)
    assert (choice is None) == (brute_force(problem) is None)
    assert choice is None or problem.fits(choice)


def test_the_check_notices_wrong_answers():
    problem = Problem([(0.0, 1.0, 100.0)] * 3, lambda c: (30.0 - sum(c),), (28.0,))
    check(problem, (0, 1, 1))
    for wrong in (None, (0, 0, 0), (2, 2, 2)):
        with pytest.raises(AssertionError):
            check(problem, wrong)


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_fill_never_raises_harm_and_keeps_within_the_limits(seed):
    problem = random_problem(seed)
    end = tuple(len(harms) - 1 for harms in problem.harms)
    if problem.fits(end):
        filled = fill(problem, end)
        assert problem.fits(filled)
        assert problem.harm(filled) <= problem.harm(end)


@given(st.lists(st.tuples(st.floats(0.01, 1), st.floats(0, 100)), max_size=6))
@settings(max_examples=150, deadline=None)
def test_curves_are_monotone_from_zero_and_keep_the_sum(points):
    curve = HarmCurve.through(points)
    assert curve(0) == 0
    values = [curve(step / 50) for step in range(76)]
    assert all(math.isfinite(value) for value in values)
    assert all(low <= high * (1 + 1e-9) + 1e-12 for low, high in pairwise(values))
    single = len({removed for removed, _ in points}) == len(points)
    if single:  # isotonic regression moves harm between neighbours, it adds none
        total = sum(harm for _, harm in points)
        assert sum(harm for _, harm in curve.points) == pytest.approx(total)
        ordered = sorted(points)
        if all(low[1] <= high[1] for low, high in pairwise(ordered)):
            assert curve.points == tuple(ordered)


@given(st.lists(st.floats(-5, 5).filter(bool), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_tau_sweeps_both_monotonously_from_all_to_none(values):
    units = [
        Unit(f"u{i}", ChannelGroup(f"u{i}", 8, (), (f"u{i}",), ()), (f"u{i}",), Cost(1, 1, 1))
        for i in range(len(values))
    ]
    difference = {unit.name: Difference(value) for unit, value in zip(units, values, strict=True)}
    harm = dict.fromkeys(difference, 1.0)
    before = set(difference)
    for tau in (10.0, 4.0, 1.0, 0.1, 0.0):
        labels = labels_of(units, difference, harm, Rule("hmc", tau, 20))
        both = {name for name, label in labels.items() if label == "both"}
        assert both <= before
        assert all(
            label == "both" or abs(difference[name].value) > tau for name, label in labels.items()
        )
        before = both
    assert labels == labels_of(units, difference, harm, Rule("nahc", None, 20))
    assert set(labels_of(units, difference, harm, Rule("ahc", None, 20)).values()) == {"both"}


def spread(clusters) -> float:
    return sum((v - sum(c) / len(c)) ** 2 for c in clusters if c for v in c)


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=9), seeds)
@settings(max_examples=80, deadline=None)
def test_no_other_three_clusters_are_tighter(values, seed):
    found = three_means([float(value) for value in values])
    assert sorted(v for cluster in found for v in cluster) == sorted(values)
    draw = random.Random(seed)
    for _ in range(30):
        owners = [draw.randrange(3) for _ in values]
        other = [[v for v, o in zip(values, owners, strict=True) if o == k] for k in range(3)]
        assert spread(found) <= spread(other) + 1e-9


def test_that_comparison_can_fail():
    assert spread(three_means([0.0, 1.0, 5.0, 9.0])) < spread([[0.0, 5.0], [1.0], [9.0]])
