"""Which ranks are on offer, rule by rule."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lissom.errors import RecipeError
from lissom.graph.capture import capture
from lissom.lowrank.families import BY_NAME, family_named
from lissom.lowrank.rules import energy_ranks, evbmf_ranks
from lissom.methods.hmc import Hmc, HmcSettings
from lissom.methods.importance import cuts_of, importances
from lissom.methods.menu import FAMILIES, RankOption, equal_fractions, rank_options, resolve
from lissom.methods.probes import Probing
from lissom.methods.rank_rules import (
    EQUAL,
    RANK_RULES,
    Energy,
    Evbmf,
    Joint,
    RankRule,
    rank_rule,
    unmeasured_rule,
)
from lissom.methods.space import Menu, menu_of
from lissom.methods.units import units_of
from lissom.methods.weights import WeightMath
from lissom.plan.budget import Budget
from lissom.search.price import LowRank, Pricer
from method_samples import applied, small_view

FAST = HmcSettings(images=32, statistics_images=32, fractions=(0.25, 0.75), compare=False)
TUCKER, SVD = family_named("tucker2"), family_named("channel_svd")


def narrow(model: nn.Module) -> nn.Module:
    """Let ``a`` read three directions of its inputs, and write in all: both modes differ."""
    generator = torch.Generator().manual_seed(0)
    shape = (24, 3, 3, 3)
    core, first = torch.randn(shape, generator=generator), torch.randn(3, 16, generator=generator)
    noise = torch.randn(24, 16, 3, 3, generator=generator)
    with torch.no_grad():
        model.a.weight.copy_(torch.einsum("tbij,bs->tsij", core, first) + 0.05 * noise)
    return model


def covariance_of(size: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    samples = torch.randn(4 * size, size, generator=generator) * torch.linspace(2, 0.1, size)
    return samples.T @ samples / len(samples)


@pytest.fixture(scope="module")
def view():
    view = small_view()
    narrow(view.model)
    return view


@pytest.fixture(scope="module")
def weights(view):
    return WeightMath(view.model, view.graph, {"a": covariance_of(16 * 9)})


@pytest.fixture(scope="module")
def shape(view):
    return Pricer(view.model, view.graph).shapes["a"]


def fractions_of(rule: RankRule, family, shape) -> list[tuple[float, ...]]:
    return list(rule.grid("a", family, shape))


def ranks_of(rule: RankRule, family, shape) -> list[tuple[int, ...]]:
    full = family.full_ranks(shape)
    return [
        tuple(round(part * most) for part, most in zip(one, full, strict=True))
        for one in fractions_of(rule, family, shape)
    ]


def test_equal_fractions_are_those_of_relative(shape):
    grid = fractions_of(EQUAL, TUCKER, shape)
    assert (
        grid == [(step / 16,) * 2 for step in range(15, 0, -1)] == [*equal_fractions(TUCKER, shape)]
    )
    for fraction, _ in grid:
        found = resolve(RankOption("tucker2", (fraction, fraction)), shape, 8)
        expected = TUCKER.relative(shape, fraction, 8)
        assert (found is None) == (not TUCKER.saves(shape, expected))
        assert found is None or found.ranks == expected
    assert EQUAL.within("a", SVD, shape, 50_000) == SVD.within(shape, 50_000, "macs")


def test_joint_errs_less_at_no_more_cost(weights, shape):
    rule = Joint(weights)
    found = ranks_of(rule, TUCKER, shape)
    errors = {ranks: error_of(weights, ranks) for ranks in found}
    checked = 0
    for fraction, _ in equal_fractions(TUCKER, shape):
        equal = TUCKER.relative(shape, fraction)
        limit = TUCKER.cost(shape, equal).macs
        if not TUCKER.saves(shape, equal) or equal[0] < 2:
            continue
        within = [ranks for ranks in found if TUCKER.cost(shape, ranks).macs <= limit]
        assert min(errors[ranks] for ranks in within) <= 1.02 * error_of(weights, equal)
        checked += min(errors[ranks] for ranks in within) < 0.9 * error_of(weights, equal)
    assert checked > 5
    # The cheapest, which is promised before anything is known of the weight.
    assert equal_fractions(TUCKER, shape)[-1] in fractions_of(rule, TUCKER, shape)
    assert any(ranks[0] == 3 and ranks[1] > 6 for ranks in found)


def error_of(weights: WeightMath, ranks: tuple[int, int]) -> float:
    return weights.decomposition_error("a", LowRank("tucker2", ranks))


def test_joint_judges_by_what_the_factors_are_made_for(view):
    shape = Pricer(view.model, view.graph).shapes["c"]
    # A random kernel has no small rank of its own; what it reads has.
    scale = torch.logspace(0, -2, 16).repeat_interleave(9)
    covariances = {"c": covariance_of(16 * 9) * scale[:, None] * scale}
    whitened, bare = (WeightMath(view.model, view.graph, known) for known in (covariances, {}))
    grids = [
        [*Joint(weights).grid("c", TUCKER, shape)]
        for weights in (whitened, replace(whitened, whiten=False), bare)
    ]
    assert grids[1] == grids[2] != grids[0]


@pytest.mark.parametrize("family", ["channel_svd", "spatial_svd", "filter_cp", "tensor_train"])
def test_joint_is_relative_where_nothing_is_predicted(weights, shape, family):
    rule, kind = Joint(weights), family_named(family)
    assert fractions_of(rule, kind, shape) == fractions_of(EQUAL, kind, shape)
    assert rule.within("a", kind, shape, 90_000) == EQUAL.within("a", kind, shape, 90_000)


def test_energy_keeps_what_holds_each_share(weights, shape):
    found = ranks_of(Energy(weights), TUCKER, shape)
    covariance = weights.covariances["a"]
    for lost in (0.5**0.5, 0.5, 0.0625):
        expected = energy_ranks(TUCKER, shape, weights.weight("a"), 1 - lost, covariance=covariance)
        assert expected in found
    assert found[-1] == (1, 1)
    assert found != ranks_of(Energy(replace(weights, whiten=False)), TUCKER, shape)
    filter_cp = family_named("filter_cp")
    assert fractions_of(Energy(weights), filter_cp, shape) == [*equal_fractions(filter_cp, shape)]


def test_evbmf_offers_one_choice(weights, shape):
    rule = Evbmf(weights)
    weight = weights.weight("a")
    for family in ("tucker2", "channel_svd", "spatial_svd", "tensor_train"):
        kind = family_named(family)
        assert ranks_of(rule, kind, shape) == [evbmf_ranks(kind, shape, weight)]
    assert fractions_of(rule, family_named("filter_cp"), shape) == []
    options = rank_options(shape, FAMILIES, 1, lambda *given: rule.grid("a", *given))
    assert len(options) == len({option.family for option in options})
    assert resolve(options[-1], shape, 1).ranks[0] == 3  # what stands out of the noise
    assert rule.within("a", SVD, shape, 50_000) == SVD.within(shape, 50_000, "macs")


def test_fractions_of_their_own_follow_the_channels_that_are_left(shape):
    option = RankOption("tucker2", (3 / 16, 0.75))
    assert resolve(option, shape, 1).ranks == (3, 18)
    less = replace(shape, in_channels=8, out_channels=12)
    assert resolve(option, less, 1).ranks == (2, 9)
    wide = replace(shape, in_channels=64, out_channels=64)
    assert resolve(option, wide, 8).ranks == (16, 48)


def menu_with(view, rule: RankRule) -> Menu:
    units = units_of(view.graph, ())
    cuts = cuts_of(units, importances(units, view, "l2", {}), view.round_to)
    return menu_of(units, cuts, Pricer(view.model, view.graph), FAMILIES, view.round_to, rule)


@pytest.mark.parametrize("name", RANK_RULES)
@pytest.mark.parametrize("round_to", [1, 8])
def test_without_measurements_no_less_is_promised_than_there_is(view, weights, name, round_to):
    view = replace(view, round_to=round_to)
    bare = WeightMath(view.model, view.graph, {})
    promised = menu_with(view, unmeasured_rule(name, bare))
    real = menu_with(view, rank_rule(name, weights))
    for variant in ("hmc", "nahc"):
        ours, theirs = promised.smallest(variant), real.smallest(variant)
        assert theirs.macs <= ours.macs
        assert theirs.params <= ours.params
        if name != "joint":
            assert ours == theirs


@pytest.mark.parametrize("name", RANK_RULES)
def test_the_rule_decides_the_ranks_and_the_smallest_is_reached(view, tmp_path, name):
    view = replace(view, cache=tmp_path)
    method = Hmc(replace(FAST, ranks=name, variant="decompose_only"))
    smallest = method.smallest(view)
    least = method.plan(view, Budget.parse(f"macs={smallest.macs / 1000}k"))
    assert least.predicted.macs <= smallest.macs
    assert capture(applied(view, least), view.example_inputs).cost == least.predicted
    assert least.evidence["ranks"] == name
    if name == "evbmf":
        free = replace(FAST, variant="decompose_only", ranks="relative")
        assert smallest.macs > Hmc(free).smallest(view).macs


def test_probes_take_the_ranks_of_the_rule(view, weights):
    pricer = Pricer(view.model, view.graph)
    unit = next(unit for unit in units_of(view.graph, ()) if unit.name == "a")
    equal, joint = (
        Probing(view, {}, ("tucker2",), weights, pricer, rule=rule)._rank_probe(unit, "a", 0.6)
        for rule in (EQUAL, Joint(weights))
    )
    assert joint.error < 0.9 * equal.error
    assert joint.removed >= 0.6
    assert joint.candidate.key != equal.candidate.key


def test_settings_are_checked():
    for ranks, families, message in (
        ("guess", None, "ranks='guess': expected one of relative, joint, energy, evbmf"),
        ("evbmf", ("filter_cp",), "ranks='evbmf': the ranks of filter_cp are those of no matrices"),
        ("relative", ("cp",), r"families=\['cp'\]: expected some of .*tensor_train"),
    ):
        with pytest.raises(RecipeError, match=message):
            replace(FAST, ranks=ranks, families=families)
    assert replace(FAST, ranks="evbmf").offered == FAMILIES


def test_every_family_of_products_can_be_named(view):
    products = tuple(name for name in BY_NAME if name != "sparse_plus_svd")
    assert HmcSettings(families=products).offered == products
    assert "tensor_train" not in HmcSettings().offered
    only = replace(FAST, families=("tensor_train",), variant="decompose_only")
    found = Hmc(only).plan(view, Budget.parse("macs=0.7"))
    assert {one.kind for one in found.plan.decisions} == {"tensor_train"}
    assert capture(applied(view, found), view.example_inputs).cost == found.predicted
