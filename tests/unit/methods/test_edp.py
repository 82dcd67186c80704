"""EDP as a method: its settings, the smallest network, and what it proposes."""

import dataclasses
import re

import pytest
import torch

from lissom.errors import BudgetError, LissomError, RecipeError
from lissom.methods.edp import Edp, EdpSettings
from lissom.plan.budget import Budget
from lissom.train.loop import train
from lissom.train.settings import TrainSettings
from method_samples import applied, batches_of, seeded, view_of
from relaxation_samples import SHAPE, Residual, counted

SETTINGS = TrainSettings(
    epochs=10, learning_rate=0.1, warmup_steps=2, precision="32", device="cpu", channels_last="no"
)


def view(**options):
    """Give a view that can train: 20 steps."""
    batches = batches_of(*SHAPE)
    looked = view_of(seeded(Residual), *SHAPE, batches=batches, **options)
    trained = []

    def train_with(model, companion, rate_factor):
        trained.append(rate_factor)
        train(model, looked.data, looked.task, SETTINGS, companion=companion)
        return {"rate_factors": tuple(trained)}

    def score(model):
        with torch.no_grad():
            outputs = torch.cat([model(images) for images, _ in batches])
        targets = torch.cat([targets for _, targets in batches])
        return float((outputs.argmax(1) == targets).float().mean())

    return dataclasses.replace(looked, train=train_with, score=score)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mode": "fast"}, "mode='fast': expected one of budget, faithful"),
        ({"merge": "always"}, "merge='always': expected one of cost, time, never"),
        ({"learn": ()}, "expected columns, rows, or both"),
        ({"learn": ("ranks",)}, "expected columns, rows, or both"),
        ({"start": "warm"}, "start='warm'"),
        ({"row_groups": "some"}, "row_groups='some'"),
        ({"penalty": "l1"}, "penalty='l1'"),
        ({"statistics_images": 0}, "statistics_images=0: expected a whole number of at least 1"),
        ({"statistics_images": 2.5}, "statistics_images=2.5: expected a whole number"),
        ({"rate_factor": 0.0}, "rate_factor=0.0: expected a number above 0"),
        ({"rate_factor": float("inf")}, "rate_factor=inf: expected a number above 0"),
        ({"lam_rank": -1.0}, "lam_rank=-1.0: expected 0 or more"),
        ({"lam_channel": float("nan")}, "lam_channel=nan: expected 0 or more"),
        ({"ramp_end": 0.7, "cut_at": 0.2}, "ramp_start=0.0, ramp_end=0.7, cut_at=0.2: expected"),
        ({"split": "spatial", "penalty": "energy"}, "penalty='energy': has no effect where"),
        ({"lead": 0.0}, "lead=0.0: expected a number above 0"),
        ({"cut_at": 0.3}, "cut_at=0.3: the target would be the budget from the first step on"),
        ({"lam_rank": 0.5}, "lam_rank=0.5: has no effect in mode=budget"),
        ({"lead": 0.3}, "lead=0.3: has no effect where the support is cut at the start"),
        (
            {"penalty": "norm", "split": "channel", "lead": 0.3, "ramp_end": 0.5, "cut_at": 0.6},
            "lead=0.3: has no effect with penalty=norm",
        ),
        ({"mode": "faithful", "penalty": "energy"}, "penalty='energy': has no effect in mode=fai"),
        ({"mode": "faithful", "cut_at": 0.6}, "cut_at=0.6: has no effect in mode=faithful"),
        ({"mode": "faithful", "split": "spatial"}, "split='spatial': has no effect in mode=faithf"),
        ({"start": "scratch", "statistics_images": 9}, "statistics_images=9: .* start=scratch"),
        ({"learn": ("rows",), "split": "spatial"}, "split='spatial': .* no ranks are learned"),
    ],
)
def test_wrong_settings_are_refused_by_name(wrong, message) -> None:
    with pytest.raises(RecipeError, match=message):
        EdpSettings(**wrong)


def test_the_faithful_mode_is_the_published_form() -> None:
    faithful = EdpSettings(mode="faithful").relaxation()
    assert (faithful.form, faithful.row_parts, faithful.penalty) == ("plain", "filters", "norm")
    ours = EdpSettings().relaxation()
    assert (ours.form, ours.row_parts, ours.penalty) == ("whitened", "norms", "decay")


def test_a_preview_can_not_decide() -> None:
    with pytest.raises(LissomError, match="preview"):
        Edp().plan(view_of(seeded(Residual), *SHAPE), Budget.parse("macs=0.5"))


def test_the_smallest_network_is_within_reach_and_below_all_others() -> None:
    looked = view()
    smallest = Edp().smallest(looked)
    rows = Edp(EdpSettings(learn=("rows",))).smallest(looked)
    aligned = Edp().smallest(dataclasses.replace(looked, round_to=4))
    assert smallest.macs < rows.macs < looked.graph.cost.macs
    assert smallest.macs < aligned.macs < looked.graph.cost.macs
    assert smallest.macs < Edp(EdpSettings(learn=("columns",))).smallest(looked).macs
    assert Edp(EdpSettings(row_groups="all")).smallest(looked).macs < smallest.macs


@pytest.mark.parametrize(
    "settings",
    [
        EdpSettings(),
        EdpSettings(learn=("columns",), row_groups="all"),
        EdpSettings(learn=("rows",)),
        EdpSettings(merge="never"),
        EdpSettings(penalty="energy"),
        EdpSettings(start="scratch", penalty="norm", rate_factor=1.0),
    ],
)
def test_it_trains_and_proposes_a_network_within_the_budget(settings) -> None:
    looked = view()
    before = {name: tensor.clone() for name, tensor in looked.model.state_dict().items()}
    proposal = Edp(settings).plan(looked, Budget.parse("macs=0.7"))
    assert all(torch.equal(looked.model.state_dict()[n], t) for n, t in before.items())
    network = applied(looked, proposal)
    assert counted(network) == proposal.predicted
    assert proposal.predicted.macs <= 0.7 * looked.graph.cost.macs
    evidence = proposal.evidence
    assert evidence["accuracy_before_merge"] == evidence["accuracy_after_merge"]
    assert evidence["trajectory"][-1]["macs"] <= 0.7
    assert proposal.training == {"rate_factors": (settings.rate,)}
    assert (evidence["merged"] == []) == (settings.merge == "never") or "rows" in settings.learn
    kinds = {type(decision).__name__ for decision in proposal.plan.decisions}
    assert ("KeepChannels" in kinds) <= ("rows" in settings.learn)
    assert ("ChannelSVD" in kinds) == ("columns" in settings.learn)


def test_layers_to_be_ignored_stay_as_they_are() -> None:
    looked = view(ignore=frozenset({"a", "d"}))
    proposal = Edp().plan(looked, Budget.parse("macs=0.8"))
    network = applied(looked, proposal)
    assert type(network.a) is type(network.d) is torch.nn.Conv2d
    assert network.a.out_channels == 10


def test_the_faithful_mode_runs_without_a_goal() -> None:
    looked = view()
    settings = EdpSettings(mode="faithful", lam_rank=20.0, lam_channel=10.0, merge="never")
    proposal = Edp(settings).plan(looked, Budget.parse("macs=0.9"))
    assert counted(applied(looked, proposal)) == proposal.predicted
    assert proposal.evidence["mode"] == "faithful"
    assert set(proposal.evidence["inexact_borders"]) <= {"b", "d"}
    assert proposal.evidence["left_alone"]["stem"].startswith("coupled by sums")


def test_fixed_multipliers_that_do_not_reach_the_budget_are_named() -> None:
    settings = EdpSettings(mode="faithful", lam_rank=0.0, lam_channel=0.0)
    proposal = Edp(settings).plan(view(), Budget.parse("macs=0.9"))
    assert re.search(r"lam_rank=0.0 .* above the budget macs=0.9; raise", proposal.above)


def test_an_alignment_that_a_threshold_can_not_keep_is_refused() -> None:
    with pytest.raises(RecipeError, match="round_to=4: has no effect in mode=faithful"):
        Edp(EdpSettings(mode="faithful")).plan(view(round_to=4), Budget.parse("macs=0.9"))


def test_rates_are_those_that_the_start_bears() -> None:
    settings = (
        EdpSettings(),
        EdpSettings(start="scratch"),
        EdpSettings(mode="faithful"),
        EdpSettings(rate_factor=2.0),
    )
    assert [one.rate for one in settings] == [5.0, 1.0, 1.0, 2.0]
    assert [Edp(one).from_scratch for one in settings] == [False, True, False, False]


def test_a_network_without_anything_to_learn_is_refused_with_the_reasons() -> None:
    layers = frozenset({"stem", "a", "b", "c", "d", "skip", "head"})
    with pytest.raises(BudgetError, match="no layer's rank and no channels can be learned here"):
        Edp().plan(view(ignore=layers), Budget.parse("macs=1G"))
