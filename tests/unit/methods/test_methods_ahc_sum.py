"""The variant of sums: every layer a sparse part beside a low-rank one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from lissom.errors import RecipeError
from lissom.graph.capture import capture
from lissom.graph.folding import foldable
from lissom.methods.catalog import method_called
from lissom.methods.hmc import Hmc, HmcSettings
from lissom.plan.budget import Budget
from lissom.plan.sparse_plus import SparsePlusLowRank
from lissom.recipe.recipe import Stage
from method_samples import Mixed, applied, seeded, small_view, view_of

# In proportion every sum has a rank to cut; together S may take all that the cost allows.
SUM = HmcSettings(
    variant="ahc_sum",
    ranks="relative",
    images=32,
    statistics_images=32,
    fractions=(0.25, 0.75),
)
HALF = Budget.parse("macs=0.5")


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    return small_view(cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def proposal(view):
    return Hmc(SUM).plan(view, HALF)


@pytest.fixture(scope="module")
def second(view, proposal):
    """Give the view of a stage that begins with the network of sums."""
    model = applied(view, proposal)
    return replace(view, model=model, graph=capture(model, view.example_inputs), cache=None)


def test_nothing_but_sums_and_nothing_pruned(view, proposal):
    assert {one.kind for one in proposal.plan.decisions} == {"sparse_plus_svd"}
    assert set(proposal.labels.values()) <= {"decompose", "keep", ""}
    decided = {one.target for one in proposal.plan.decisions}
    orders = {name for name in proposal.values if name.endswith(".order")}
    assert orders == {f"{layer}.order" for layer in decided}
    assert "b" in decided


def test_the_cost_is_measured_and_the_smallest_is_reached(view, proposal):
    assert capture(applied(view, proposal), view.example_inputs).cost == proposal.predicted
    smallest = Hmc(SUM).smallest(view)
    least = Hmc(SUM).plan(view, Budget.parse(f"macs={smallest.macs / 1000}k"))
    assert least.predicted.macs == smallest.macs


def test_grouped_convolutions_stay_whole():
    mixed = view_of(seeded(Mixed), 3, 15, 13)
    found = Hmc(SUM).plan(mixed, Budget.parse("macs=0.9"))
    assert {one.target for one in found.plan.decisions} <= {"a", "c", "d", "head"}
    assert capture(applied(mixed, found), mixed.example_inputs).cost == found.predicted


def test_the_second_order_estimator_judges_sums_too(view):
    found = Hmc(replace(SUM, estimator="second_order")).plan(view, HALF)
    assert HALF.met(view.graph.cost, capture(applied(view, found), view.example_inputs).cost)


def test_other_families_beside_it_are_refused():
    assert HmcSettings(variant="ahc_sum", families=("sparse_plus_svd",)).offered == SUM.offered
    with pytest.raises(RecipeError, match=r"\['tucker2'\]: .*sparse_plus_svd, .*variant ahc_sum"):
        replace(SUM, families=("tucker2",))
    with pytest.raises(
        RecipeError, match=r"\['sparse_plus_svd'\]: expected some of tucker2, .*hmc"
    ):
        HmcSettings(families=("sparse_plus_svd",))
    with pytest.raises(RecipeError, match="ahc_sum puts all units into one group"):
        replace(SUM, groups="random")


def test_the_variant_is_a_method_by_name():
    found = method_called("ahc_sum")
    assert isinstance(found, Hmc)
    assert found.settings == HmcSettings(variant="ahc_sum")
    stage = Stage.model_validate("ahc_sum")
    assert (stage.method, stage.settings(HmcSettings, "stages.0")) == ("hmc", found.settings)


def test_a_later_cut_of_the_inputs_of_a_sum_is_refused_with_a_reason(second):
    sums = [n for n, m in second.model.named_modules() if isinstance(m, SparsePlusLowRank)]
    frozen = {group.name: group.frozen_because for group in second.graph.groups}
    assert "a" in sums
    assert "picks channels by number" in frozen["stem"]
    refused = {(one.layer, one.action): one for one in second.graph.refusals}
    assert "sparse_plus.py" in refused["stem", "prune"].where
    assert all((f"{name}.sparse", "decompose") not in refused for name in sums)


def test_a_later_stage_cuts_the_rank_and_decomposes_the_parts(second):
    ranks = {group.name for group in second.graph.groups if group.frozen_because is None}
    assert {name for name in ranks if name.endswith(".first")}
    for variant in ("prune_only", "decompose_only", "ahc_sum"):
        ranks_rule = "joint" if variant == "prune_only" else SUM.ranks
        settings = replace(SUM, variant=variant, ranks=ranks_rule)
        found = Hmc(settings).plan(second, Budget.parse("macs=0.95"))
        network = applied(second, found)
        assert capture(network, second.example_inputs).cost == found.predicted
        assert found.plan.decisions


def test_a_norm_behind_a_sum_stays(view, second):
    """No one layer makes what it reads."""
    assert foldable(view.model, view.example_inputs)["b"] == "norm_b"
    assert "norm_b" not in foldable(second.model, second.example_inputs).values()
    assert isinstance(second.model.norm_b, nn.BatchNorm2d)


def test_outputs_are_those_of_the_dense_weights(view, proposal):
    network = applied(view, proposal)
    dense = small_view().model
    for one in proposal.plan.decisions:
        both, layer = network.get_submodule(one.target), dense.get_submodule(one.target)
        low = torch.tensordot(both.last.weight.flatten(1), both.first.weight, dims=1)
        joined = torch.cat([both.sparse.weight, low], dim=1)
        with torch.no_grad():
            layer.weight.copy_(joined[:, both.order.argsort()])
    images = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(network(images), dense(images), atol=1e-4, rtol=1e-4)
