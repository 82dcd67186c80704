"""Pruning and merging leaves the function as it is, and what it costs is what was expected."""

import copy

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies_convolutions import seeds

from lissom.graph.capture import capture
from lissom.plan.build import apply_values, build
from lissom.plan.plan import Plan
from lissom.relaxation.support import ROWS
from relaxation_samples import (
    NETWORKS,
    SHAPE,
    Mobile,
    Relaxed,
    counted,
    images,
    random_masks,
    relative_difference,
    relaxed,
    relaxed_from,
)

SPREAD = settings(max_examples=10, deadline=None)
# Products of factors are rounded once more; a handful of layers in a row.
EXACT = 1e-5
splits = st.sampled_from(["channel", "spatial"])
shares = st.sampled_from([0.0, 0.3, 0.6, 0.9])


def never(_layer, _rank, _kept) -> bool:
    return True


def harden(case: Relaxed, seed: int, share: float, pays=None):
    case.vanish(random_masks(case.relaxation, seed, share))
    hardened = case.relaxation.harden(case.network, pays)
    return hardened, case.built(hardened)


@SPREAD
@given(
    st.sampled_from(NETWORKS),
    st.sampled_from(["inner", "all"]),
    st.sampled_from([None, never]),
    splits,
    shares,
    seeds(),
)
def test_what_has_vanished_is_cut_without_a_change(
    factory, row_groups, pays, split, share, seed
) -> None:
    case = relaxed(factory, seed=seed % 7, row_groups=row_groups, split=split)
    hardened, network = harden(case, seed, share, pays)
    with torch.no_grad():
        found = network(images())
    assert relative_difference(found, case.outputs()) < EXACT
    assert hardened.inexact == ()


@SPREAD
@given(st.sampled_from(NETWORKS), st.sampled_from(["inner", "all"]), splits, shares, seeds())
def test_the_expected_cost_is_what_the_new_network_is_measured_to_cost(
    factory, row_groups, split, share, seed
) -> None:
    case = relaxed(factory, row_groups=row_groups, split=split)
    _, network = harden(case, seed, share)
    expected = case.relaxation.pricer.price(case.relaxation.expected())
    assert counted(network) == expected


@SPREAD
@example(Mobile, 0.6, 10529)  # of one channel: any stride will do
@given(st.sampled_from(NETWORKS), shares, seeds())
def test_the_plan_replays_bit_for_bit(factory, share, seed) -> None:
    case = relaxed(factory, row_groups="all")
    hardened, network = harden(case, seed, share)
    plan = Plan.from_json(hardened.plan.to_json())
    assert plan == hardened.plan
    replayed = build(copy.deepcopy(case.model).to("meta"), plan)
    apply_values(replayed, hardened.values)
    ours, theirs = network.state_dict(), replayed.state_dict()
    for name, value in ours.items():
        assert torch.equal(theirs[name], value), name
        assert theirs[name].stride() == value.stride(), name  # decides over kernels and last bits
    with torch.no_grad():
        assert torch.equal(replayed.eval()(images()), network(images()))


@pytest.mark.parametrize("factory", NETWORKS)
def test_hardened_again_it_stays_what_it_is(factory) -> None:
    case = relaxed(factory, row_groups="all")
    _, network = harden(case, 3, 0.5)
    graph = capture(network, (torch.zeros(1, *SHAPE),))
    again = relaxed_from(copy.deepcopy(network), graph, row_groups="all")
    second = again.relaxation.harden(again.network)
    assert not any(second.removed.values())
    assert counted(again.built(second)) == graph.cost == counted(network)


@pytest.mark.parametrize("factory", NETWORKS)
def test_the_relaxed_network_stays_as_it_is(factory) -> None:
    case = relaxed(factory)
    case.vanish(random_masks(case.relaxation, 0, 0.5))
    before = copy.deepcopy(case.network.state_dict())
    case.relaxation.harden(case.network)
    after = case.network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_coupled_channels_go_together_from_every_layer() -> None:
    case = relaxed(NETWORKS[0], row_groups="all")
    gone = torch.arange(8) != 3
    case.vanish({(ROWS, "stem"): gone})
    network = case.built(case.relaxation.harden(case.network))
    assert network.stem.out_channels == network.norm_b.num_features == 7
    assert network.c.in_channels == network.skip.in_channels == 7


def test_a_column_fed_by_dead_channels_alone_goes_with_them() -> None:
    case = relaxed(NETWORKS[0])
    block = case.relaxation.columns["b"].block
    with torch.no_grad():
        block.basis[2, 1:] = 0  # column 2 reads channel 0 of a alone
    case.vanish({(ROWS, "a"): torch.arange(10) != 0})
    hardened = case.relaxation.harden(case.network, never)
    ranks = {pair.layer: pair.rank for pair in hardened.pairs}
    assert ranks["b"] == 7


def test_a_channel_that_live_columns_ignore_goes_too() -> None:
    case = relaxed(NETWORKS[0])
    block = case.relaxation.columns["b"].block
    with torch.no_grad():
        block.basis[1:, 4] = 0  # of all columns only 0 reads channel 4
        block.coefficients[:, 0] = 0
    hardened = case.relaxation.harden(case.network, never)
    assert hardened.removed == {"a": 1}
    found = case.built(hardened)
    with torch.no_grad():
        assert relative_difference(found(images()), case.outputs()) < EXACT


def test_the_comparison_sees_a_channel_that_was_alive() -> None:
    case = relaxed(NETWORKS[0])
    hardened = case.relaxation.harden(case.network)
    expected = case.outputs()
    values = dict(hardened.values)
    weight = values["norm_a.weight"].clone()
    weight[0] = 0
    values["norm_a.weight"] = weight
    network = build(case.model, hardened.plan)
    apply_values(network, values)
    with torch.no_grad():
        assert relative_difference(network.eval()(images()), expected) > EXACT


def test_a_channel_that_dead_outputs_alone_read_goes_too() -> None:
    case = relaxed(NETWORKS[0], learn=("rows",), row_groups="all")
    with torch.no_grad():
        case.network.b.weight[1:, 4] = 0  # of the stream only channel 0 reads it
    case.vanish({(ROWS, "stem"): torch.arange(8) != 0})
    hardened = case.relaxation.harden(case.network)
    assert hardened.removed == {"stem": 1, "a": 1}
    with torch.no_grad():
        assert relative_difference(case.built(hardened)(images()), case.outputs()) < EXACT


@SPREAD
@given(st.sampled_from(NETWORKS), shares, seeds())
def test_pairs_that_are_never_merged_are_priced_as_pairs(factory, share, seed) -> None:
    case = relaxed(factory, merge="never")
    hardened, network = harden(case, seed, share)
    assert counted(network) == case.relaxation.pricer.price(case.relaxation.expected())
    for pair in hardened.pairs:
        layer = network.get_submodule(pair.layer)
        assert pair.merged == (not isinstance(layer, torch.nn.Sequential))
    with torch.no_grad():
        assert relative_difference(network(images()), case.outputs()) < EXACT
