"""Merging by the clock."""

import pytest
import torch
from torch import nn

from lissom.errors import BudgetError, MeasureError
from lissom.extension import ModelView
from lissom.measure.clock import RuntimeClock
from lissom.measure.latency import Conditions
from lissom.methods.pair_clock import PairClock
from lissom.task import Classification, Data
from relaxation_samples import SHAPE, Mobile, Plain, Residual, counted, relaxed


class Told:
    """A clock of fixed times: of two layers in a row, and of one."""

    def __init__(self, pair_ms, one_ms):
        self.pair_ms, self.one_ms, self.pairs = pair_ms, one_ms, 0

    def nanoseconds(self, layer, input_shape):
        weights = [one for one in layer.modules() if isinstance(one, (nn.Conv2d, nn.Linear))]
        self.pairs += len(weights) == 2
        return round(1e6 * (self.pair_ms if len(weights) == 2 else self.one_ms))


class Busy:
    def nanoseconds(self, layer, input_shape):
        raise MeasureError("the machine is too busy")


def view(case, clock):
    nothing = Data([], [], [], [])
    example = (torch.zeros(1, *SHAPE),)
    graph = case.relaxation.graph
    return ModelView(case.model, graph, example, Classification(), nothing, clock=clock)


def four_columns(clock, share=1.0):
    """Give a network whose pairs all have four columns, and what decides on them."""
    case = relaxed(Residual, learn=("columns",))
    case.vanish(
        {
            key: (v > 0) & (v >= v.topk(4).values[-1])
            for key, v in case.relaxation.strengths().items()
        }
    )
    limits = {"macs": int(share * case.relaxation.graph.cost.macs)}
    return case, PairClock(case.relaxation, view(case, clock), limits)


def test_a_pair_that_is_slower_is_merged() -> None:
    told = Told(2.0, 1.0)
    case, made = four_columns(told)
    assert not made.pays("a", 4, {})
    assert told.pairs == 1
    assert made.times["a"] == (2.0, 1.0)
    case, made = four_columns(told)
    hardened = case.relaxation.harden(case.network, made.pays)
    assert all(pair.merged for pair in hardened.pairs)


def test_a_pair_that_is_faster_stays() -> None:
    case, made = four_columns(Told(1.0, 2.0))
    hardened = case.relaxation.harden(case.network, made.pays)
    left = {pair.layer for pair in hardened.pairs if not pair.merged}
    assert left == {"a", "b", "c", "d", "skip"}


def test_what_costs_no_less_is_merged_without_a_look_at_the_clock() -> None:
    told = Told(1.0, 2.0)
    _, made = four_columns(told)
    assert not made.pays("a", 10, {})
    assert told.pairs == 0


def test_merging_stops_at_the_limits() -> None:
    case, free = four_columns(Told(2.0, 1.0))
    pricer = case.relaxation.pricer
    now = pricer.price(case.relaxation.expected()).macs
    whole = case.relaxation.graph.cost.macs
    case, made = four_columns(Told(2.0, 1.0), share=(now + 20_000) / whole)
    hardened = case.relaxation.harden(case.network, made.pays)
    merged = {pair.layer: pair.merged for pair in hardened.pairs}
    assert any(merged.values())
    assert not all(merged.values())
    network = case.built(hardened)
    assert counted(network).macs <= now + 20_000
    assert counted(network) == pricer.price(hardened.configuration)
    assert free.pays("skip", 4, {}) is False


def test_what_a_busy_machine_cant_tell_goes_by_cost_and_is_owned_up_to() -> None:
    _, made = four_columns(Busy())
    assert made.pays("a", 4, {})
    assert made.busy == "the machine is too busy"
    assert made.times == {}


def test_without_a_clock_it_is_refused() -> None:
    case, _ = four_columns(Busy())
    with pytest.raises(BudgetError, match=r"merge=time: nothing can be timed here.*merge=cost"):
        PairClock(case.relaxation, view(case, None), {})


@pytest.mark.parametrize(("factory", "layer"), [(Mobile, "down"), (Plain, "wide")])
def test_a_convolution_and_a_linear_layer_can_really_be_timed(factory, layer) -> None:
    case = relaxed(factory)
    clock = RuntimeClock(Conditions(), (torch.zeros(1, *SHAPE),))
    made = PairClock(case.relaxation, view(case, clock), {"macs": 10**9})
    answer = made.pays(layer, 2, {})
    pair_ms, one_ms = made.times[layer]
    assert 0 < pair_ms < 1000
    assert 0 < one_ms < 1000
    assert answer == (pair_ms <= one_ms)
