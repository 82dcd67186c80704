"""Searching under a limit on latency."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from lissom.errors import BudgetError
from lissom.methods.timed import TimedSearch
from lissom.plan.budget import Budget


class Network(nn.Module):
    """Stands for a network whose weight layers take so many microseconds."""

    def __init__(self, layers_us):
        super().__init__()
        self.layers_us = layers_us


class FakeClock:
    """Times networks by a rule of their own, which the search has to find out."""

    def __init__(self, rest_us, factor=1.0, drift=()):
        self.rest_us, self.factor, self.drift = rest_us, factor, list(drift)
        self.runs = 0

    def milliseconds(self, network, original):
        pace = self.drift.pop(0) if self.drift else 1.0
        self.runs += 1
        return tuple(
            pace * (self.rest_us + self.factor * one.layers_us) / 1e3 for one in (network, original)
        )


def search(clock, text="latency=0.5", original_us=1000):
    limit = Budget.parse(text).latency
    network = Network(original_us)
    return TimedSearch(clock, network, network, original_us / 1e3, limit)


def run(found, sizes=range(10, 1001, 10)):
    def solve(nanoseconds):
        fitting = [size for size in sizes if size * 1000 <= nanoseconds]
        if not fitting:
            raise BudgetError("nothing on the menu")
        return max(fitting)

    return found.run(solve, lambda size: size * 1000, Network)


def test_all_else_is_taken_to_shrink_with_the_layers():
    clock = FakeClock(rest_us=0, factor=1.2)
    size, facts = run(search(clock))
    assert size == 500
    assert len(facts["attempts"]) == 1
    assert facts["attempts"][0]["prediction_error"] == pytest.approx(0)
    assert clock.runs == 2


def test_what_does_not_shrink_is_found_out():
    clock = FakeClock(rest_us=200)
    size, facts = run(search(clock))
    assert size == 390  # half of 1200 us, less 200, and less a little after a miss
    assert [one["layers_ms"] for one in facts["attempts"]] == [0.5, 0.39]
    assert facts["attempts"][1]["prediction_error"] == pytest.approx(0)


@pytest.mark.parametrize(
    ("rest", "limit"),
    [(200, 0.3), (300, 0.35), (430, 0.4), (430, 0.5), (1000, 0.6), (1000, 0.75), (1500, 0.7)],
)
def test_a_large_part_that_does_not_shrink_is_found_out_soon(rest, limit):
    size, facts = run(search(FakeClock(rest_us=rest), f"latency={limit}"), range(1, 1001))
    assert 0.97 * limit * (rest + 1000) <= rest + size <= limit * (rest + 1000)
    assert len(facts["attempts"]) <= 3


def test_a_machine_that_slows_down_between_two_networks_tells_no_wrong_slope():
    clock = FakeClock(rest_us=200, drift=[1.0, 1.0, 3.0, 2.0])
    size, facts = run(search(clock), range(1, 1001))
    assert 0.97 * 600 <= 200 + size <= 600
    assert len(facts["attempts"]) == 2


def test_a_candidate_without_layers_ends_no_search():
    size, _ = run(search(FakeClock(rest_us=100), "latency=150us"), [0, 40, 600])
    assert size == 40


@pytest.mark.parametrize("factor", [0.8, 1.3])
def test_wrong_predictions_are_corrected_from_either_side(factor):
    clock = FakeClock(rest_us=100, factor=factor)
    size, facts = run(search(clock))
    limit = (100 + factor * 1000) / 2
    assert 0.95 * limit <= 100 + factor * size <= limit
    assert abs(facts["attempts"][0]["prediction_error"]) > 0.04
    assert abs(facts["attempts"][facts["chosen"]]["prediction_error"]) < 0.04


def test_a_machine_that_slows_down_slows_the_limit_too():
    clock = FakeClock(rest_us=0, drift=[1.0, 1.5])
    size, facts = run(search(clock))
    assert size == 500
    assert facts["attempts"][0]["limit_ms"] == pytest.approx(0.75)


def test_an_absolute_limit_is_taken_as_it_is():
    size, _ = run(search(FakeClock(rest_us=100), "latency=300us"))
    assert size == 190


def test_after_a_miss_less_is_aimed_at():
    """A rest that grows as layers shrink would else be met from above for ever."""

    class Growing(FakeClock):
        def milliseconds(self, network, original):
            self.rest_us = 200 - 0.1 * network.layers_us
            return super().milliseconds(network, original)

    clock = Growing(rest_us=0)
    size, facts = run(search(clock, "latency=500us"), range(10, 1001))
    attempts = facts["attempts"]
    assert not attempts[0]["measured_ms"] <= attempts[0]["limit_ms"]
    assert 0.97 * 500 <= 200 + 0.9 * size <= 500


def test_the_mildest_of_what_keeps_the_limit_is_taken():
    """The first keeps the limit with room to spare, the second uses it up."""
    clock = FakeClock(rest_us=0, factor=0.5, drift=[1.8])
    size, facts = run(search(clock, "latency=225us"), [200, 250, 400])
    assert [one["layers_ms"] for one in facts["attempts"]][:2] == [0.25, 0.4]
    assert all(one["measured_ms"] <= 0.225 for one in facts["attempts"])
    assert (size, facts["chosen"]) == (400, 1)


@pytest.mark.parametrize("slowed", [0.05, 0.08, 0.09, 0.099, 0.1, 0.12, 0.3])
def test_one_run_that_something_slowed_ends_no_search(slowed):
    """Else the line through it and the plain network leaves nothing for the layers."""

    class Disturbed(FakeClock):
        def milliseconds(self, network, original):
            taken, beside = super().milliseconds(network, original)
            return taken + (slowed if self.runs == 2 else 0.0), beside

    size, facts = run(search(Disturbed(rest_us=0), "latency=0.9"))
    assert 0.97 * 900 <= size <= 900
    assert len(facts["attempts"]) <= 4


@pytest.mark.parametrize("flat", [0.7, 0.8, 0.9, 0.97])
def test_what_shrinks_late_is_found(flat):
    """Ranks add operators; only networks without branches are faster."""

    class Late(FakeClock):
        def milliseconds(self, network, original):
            share = network.layers_us / original.layers_us
            return (share if share == 1 or share < 0.4 else flat), 1.0

    size, facts = run(search(Late(0), "latency=0.45"))
    assert facts["attempts"][facts["chosen"]]["measured_ms"] <= 0.45
    assert 300 <= size < 400


def test_a_limit_that_nothing_keeps_names_what_was_reached():
    class Stuck(FakeClock):
        def milliseconds(self, network, original):
            return 2.0, 2.0

    with pytest.raises(BudgetError, match=r"latency=0\.5 is 1 ms; the nearest of . networks.*2 ms"):
        run(search(Stuck(0), original_us=1800))


@pytest.mark.parametrize("busy", [2.2, 4.0, 9.0])
def test_a_busy_machine_leaves_room_for_layers(busy):
    """Whole networks are slowed then, the single layers are not."""
    size, facts = run(search(FakeClock(rest_us=100, factor=busy)))
    assert 0.9 * (100 + busy * 1000) / 2 <= 100 + busy * size <= (100 + busy * 1000) / 2
    assert abs(facts["attempts"][0]["prediction_error"]) < 0.06


def test_what_is_too_slow_even_then_is_refused_by_the_search():
    with pytest.raises(BudgetError, match="nothing on the menu"):
        run(search(FakeClock(rest_us=100), "latency=10us"))


def test_without_a_clock_there_is_nothing_to_search_by(view):
    with pytest.raises(BudgetError, match="nothing can be timed here"):
        TimedSearch.of(view, Budget.parse("latency=0.5").latency, 1)
    timed = replace(view, clock=FakeClock(0))
    with pytest.raises(BudgetError, match=r"latency=0\.5: no layer of this network can be timed"):
        TimedSearch.of(timed, Budget.parse("latency=0.5").latency, 0)


@pytest.fixture
def view():
    from lissom.extension import ModelView
    from lissom.graph.capture import capture
    from lissom.task import Classification, Data

    model = nn.Sequential(nn.Linear(4, 4)).eval()
    inputs = (torch.zeros(1, 4),)
    batches = [(torch.zeros(2, 4), torch.zeros(2, dtype=torch.long))]
    data = Data(train=batches, calibration=batches, held_out=batches, test=batches)
    return ModelView(
        model=model,
        graph=capture(model, inputs),
        example_inputs=inputs,
        task=Classification(),
        data=data,
    )


def test_fractions_refer_to_the_original_of_the_run(view):
    class Clock(FakeClock):
        def milliseconds(self, network, original):
            assert original is dense
            return (8.0 if network is dense else 4.0), 8.0

    dense = nn.Sequential(nn.Linear(4, 9))
    limit = Budget.parse("latency=0.5").latency
    made = TimedSearch.of(replace(view, clock=Clock(0), original=dense), limit, 1_000_000)
    candidate, facts = made.run(lambda _limit: 7, lambda _one: 1_000_000, lambda _one: view.model)
    assert candidate == 7
    assert facts["attempts"][0]["limit_ms"] == pytest.approx(4.0)
    assert facts["attempts"][0]["predicted_ms"] == pytest.approx(4.0)
