"""Removing channels that nobody reads changes nothing."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies_networks import RandomNet, networks

from lissom.graph.capture import capture
from lissom.graph.cut import keep_channels
from lissom.graph.trial_bench import ignore_channels

X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def difference(model, choices) -> float:
    """Give the largest relative difference of the cut network and the one that ignores the rest."""
    cut, whole = copy.deepcopy(model), copy.deepcopy(model)
    for decision in keep_channels(choices):
        decision.apply(cut)
    for group, kept in choices:
        ignore_channels(whole, group, kept)
    with torch.no_grad():
        got, expected = cut(X), whole(X)
    return float((got - expected).abs().max() / expected.abs().max().clamp_min(1e-3))


def choose(data, group):
    """Draw the channels to keep: as many in each part of every balance."""
    if len(group.balance) > 1 or not group.balance:
        if group.balance:
            return list(range(group.channels))
        kept = data.draw(
            st.sets(st.integers(0, group.channels - 1), min_size=1, max_size=group.channels)
        )
        return sorted(kept)
    row = group.balance[0]
    parts = [
        [c for c, p in enumerate(row) if p == part] for part in sorted({p for p in row if p >= 0})
    ]
    count = data.draw(st.integers(1, len(parts[0])))
    kept = [c for part in parts for c in data.draw(st.permutations(part))[:count]]
    return sorted([*kept, *(c for c, p in enumerate(row) if p < 0)])


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(model=networks(), data=st.data())
def test_cutting_what_nobody_reads_changes_nothing(model, data):
    graph = capture(model, (X,))
    free = [g for g in graph.groups if g.frozen_because is None]
    assert all(g.exact for g in free)
    assert [g.name for g in graph.groups if g.frozen_because][-1] == "head"
    # float32 sums in another order: 1e-6 per layer, at most 12 layers.
    assert difference(model, [(g, choose(data, g)) for g in free]) <= 1e-4


def test_the_oracle_sees_a_wrong_label():
    torch.manual_seed(0)
    model = RandomNet([("conv", 8), ("residual", 8)], flatten=False).eval()
    group = next(g for g in capture(model, (X,)).groups if g.name == "stem")
    wrong = tuple(
        replace(m, labels=m.labels[1:] + m.labels[:1]) if m.tensor == "stem.weight" else m
        for m in group.members
    )
    kept = list(range(1, group.channels))
    assert difference(model, [(group, kept)]) <= 1e-4
    assert difference(model, [(replace(group, members=wrong), kept)]) > 1e-2


@pytest.mark.slow
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(model=networks(), data=st.data())
def test_cutting_what_nobody_reads_changes_nothing_for_long(model, data):
    free = [g for g in capture(model, (X,)).groups if g.frozen_because is None]
    assert difference(model, [(g, choose(data, g)) for g in free]) <= 1e-4
