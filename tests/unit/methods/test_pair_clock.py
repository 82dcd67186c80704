"""Merging by the clock."""

import pytest

from lissom.methods.pair_clock import PairClock
from relaxation_samples import Mobile, Plain, Residual, counted, relaxed


def clock(monkeypatch, times, share=1.0, factory=Residual):
    """Build a clock over a network whose pairs all have four columns, with given times."""
    case = relaxed(factory, learn=("columns",))
    case.vanish(
        {
            key: (v > 0) & (v >= v.topk(4).values[-1])
            for key, v in case.relaxation.strengths().items()
        }
    )
    limits = {"macs": int(share * case.relaxation.graph.cost.macs)}
    made = PairClock(case.relaxation, case.model, limits)
    asked = []
    monkeypatch.setattr(
        made, "_time", lambda layer, rank, kept: (asked.append((layer, rank)), times)[1]
    )
    return case, made, asked


def test_a_pair_that_is_slower_is_merged(monkeypatch) -> None:
    case, made, asked = clock(monkeypatch, (2.0, 1.0))
    assert not made.pays("a", 4, {})
    assert asked == [("a", 4)]
    assert made.times["a"] == (2.0, 1.0)
    case, made, _ = clock(monkeypatch, (2.0, 1.0))
    hardened = case.relaxation.harden(case.network, made.pays)
    assert all(pair.merged for pair in hardened.pairs)


def test_a_pair_that_is_faster_stays(monkeypatch) -> None:
    case, made, _ = clock(monkeypatch, (1.0, 2.0))
    hardened = case.relaxation.harden(case.network, made.pays)
    assert {pair.layer for pair in hardened.pairs if not pair.merged} == {
        "a",
        "b",
        "c",
        "d",
        "skip",
    }


def test_what_costs_no_less_is_merged_without_a_look_at_the_clock(monkeypatch) -> None:
    _, made, asked = clock(monkeypatch, (1.0, 2.0))
    assert not made.pays("a", 10, {})
    assert asked == []


def test_merging_stops_at_the_limits(monkeypatch) -> None:
    case, free, _ = clock(monkeypatch, (2.0, 1.0))
    pricer = case.relaxation.pricer
    now = pricer.price(case.relaxation.expected()).macs
    whole = case.relaxation.graph.cost.macs
    case, made, _ = clock(monkeypatch, (2.0, 1.0), share=(now + 20_000) / whole)
    hardened = case.relaxation.harden(case.network, made.pays)
    merged = {pair.layer: pair.merged for pair in hardened.pairs}
    assert any(merged.values())
    assert not all(merged.values())
    network = case.built(hardened)
    assert counted(network).macs <= now + 20_000
    assert counted(network) == pricer.price(hardened.configuration)
    assert free.pays("skip", 4, {}) is False


@pytest.mark.parametrize(("factory", "layer"), [(Mobile, "down"), (Plain, "wide")])
def test_a_convolution_and_a_linear_layer_can_really_be_timed(factory, layer) -> None:
    case = relaxed(factory)
    made = PairClock(case.relaxation, case.model, {"macs": 10**9})
    answer = made.pays(layer, 2, {})
    pair_ms, one_ms = made.times[layer]
    assert 0 < pair_ms < 1000
    assert 0 < one_ms < 1000
    assert answer == (pair_ms <= one_ms)
