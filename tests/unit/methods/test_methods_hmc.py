import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from lissom.errors import BudgetError, RecipeError
from lissom.graph.capture import capture
from lissom.methods import solving
from lissom.methods.grouping import Rule
from lissom.methods.hmc import Hmc, HmcSettings
from lissom.methods.importance import cuts_of
from lissom.methods.menu import FAMILIES
from lissom.methods.sensitivities import Sensitivities
from lissom.methods.solving import Solver
from lissom.methods.space import menu_of
from lissom.methods.units import units_of
from lissom.plan.budget import Budget
from lissom.search.curves import HarmCurve
from lissom.search.price import Pricer
from lissom.task import Classification
from method_samples import Mixed, Normed, Small, applied, batches_of, seeded, small_view, view_of

HALF = Budget.parse("macs=0.5")
FAST = HmcSettings(images=32, statistics_images=32, fractions=(0.25, 0.75))


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    return small_view(cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def plain(view):
    return Hmc(FAST).plan(view, HALF)


def planned(view, budget=HALF, **changes):
    return Hmc(replace(FAST, **changes)).plan(view, budget)


def labels_of(proposal) -> dict[str, str]:
    return {unit["name"]: unit["label"] for unit in proposal.evidence["units"]}


def asked_of(proposal) -> dict[str, str]:
    return {unit["name"]: unit["asked"] for unit in proposal.evidence["units"]}


def sample(name: str):
    made = {
        "small": small_view,
        "mixed": lambda: view_of(seeded(Mixed), 3, 15, 13),
        "normed": lambda: view_of(seeded(Normed), 6),
        "linear": lambda: view_of(
            seeded(lambda: nn.Sequential(nn.Linear(9, 24), nn.ReLU(), nn.Linear(24, 4))), 9
        ),
    }
    return made[name]()


@pytest.mark.parametrize("variant", ["hmc", "nahc", "ahc"])
@pytest.mark.parametrize("name", ["small", "mixed", "normed", "linear"])
def test_predictions_are_measured_and_the_smallest_budget_is_reached(name, variant, tmp_path):
    view = replace(sample(name), cache=tmp_path)
    method = Hmc(replace(FAST, variant=variant))
    smallest = method.smallest(view)
    for budget in (  # measured once, then read from the cache
        Budget.parse("macs=0.6,params=0.7"),
        Budget.parse(f"macs={smallest.macs / 1000}k"),
        Budget.parse(f"params={smallest.params / 1000}k"),
    ):
        proposal = method.plan(view, budget)
        now = capture(applied(view, proposal), view.example_inputs).cost
        assert now == proposal.predicted
        assert budget.met(view.graph.cost, now)


def test_below_the_smallest_the_error_says_what_can_be_reached(view):
    smallest = Hmc(FAST).smallest(view).macs
    with pytest.raises(BudgetError, match=f"the smallest on its menu has macs {smallest:,}"):
        planned(view, Budget.parse(f"macs={(smallest - 1) / 1000}k"))


def test_a_network_with_nothing_to_do_is_refused():
    view = view_of(seeded(lambda: nn.Sequential(nn.Linear(3, 2))), 3)
    everything = replace(view, ignore=frozenset({"0"}))
    assert Hmc(FAST).smallest(everything) == view.graph.cost
    with pytest.raises(BudgetError, match="found no network within macs 3"):
        Hmc(FAST).plan(everything, HALF)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(9, 24), nn.Linear(5, 24), nn.Linear(24, 4)

    def forward(self, x, y):
        return {"out": self.head(torch.relu(self.a(x) + self.b(y))), "sum": self.a(x)}


def test_several_inputs_and_named_outputs():
    model, inputs = seeded(TwoInputs), (torch.zeros(1, 9), torch.zeros(1, 5))
    pairs = zip(batches_of(9), batches_of(5), strict=True)
    batches = [((x, y), classes) for (x, classes), (y, _) in pairs]
    view = replace(view_of(seeded(Normed), 6), model=model, example_inputs=inputs)
    data = replace(view.data, calibration=batches)
    view = replace(view, graph=capture(model, inputs), data=data)
    proposal = planned(view, Budget.parse("macs=0.6"))
    network = applied(view, proposal)
    assert capture(network, inputs).cost == proposal.predicted
    assert network(*batches[0][0])["out"].shape == (16, 4)


def test_the_network_is_not_changed(view, plain):
    before = seeded(Small).state_dict()
    assert all(torch.equal(before[n], tensor) for n, tensor in view.model.state_dict().items())
    assert plain.plan.decisions


def test_labels_of_layers_are_those_of_their_units(view, plain):
    labels = labels_of(plain)
    assert plain.labels["stem"] == plain.labels["b"] == labels["stem"]
    assert plain.labels["norm"] == plain.labels["norm_a"] == ""
    ignoring = Hmc(FAST).plan(replace(view, ignore=frozenset({"a"})), HALF)
    assert ignoring.labels["a"] == "keep"


def test_sensitivities_are_given_per_layer(plain):
    assert set(plain.sensitivities) == {"stem", "a", "b", "c", "head"}
    assert plain.sensitivities["stem"] == plain.sensitivities["b"]
    assert set(plain.sensitivities["a"]) == {"prune", "decompose"}
    assert set(plain.sensitivities["head"]) == {"decompose"}


def test_forward_passes_saved_are_said(view):
    said = []
    planned(replace(view, cache=None, say=said.append))
    assert "forward passes measured by running" in said[0]
    Hmc(FAST).plan(replace(view, say=said.append), HALF)
    Hmc(FAST).plan(replace(view, say=said.append), HALF)
    assert said[-2] == "sensitivities: none had to be measured"
    assert said[-1].startswith("harm of the whole network: ")


def test_ignored_layers_keep_their_outputs_and_rank(view):
    everything = planned(view, Budget.parse("macs=0.3"), variant="ahc")
    touched = applied(view, everything)
    assert not isinstance(touched.a, nn.Conv2d) or touched.a.out_channels < 24
    ignoring = replace(view, ignore=frozenset({"a", "head"}))
    network = applied(view, planned(ignoring, Budget.parse("macs=0.6"), variant="ahc"))
    assert isinstance(network.a, nn.Conv2d)
    assert network.a.out_channels == 24
    assert isinstance(network.head, nn.Linear)


def test_an_unknown_layer_to_ignore_is_refused(view):
    with pytest.raises(RecipeError, match="did you mean head"):
        Hmc(FAST).smallest(replace(view, ignore=frozenset({"haed"})))


def test_variant_decides_the_labels(view):
    proposal = planned(view, variant="ahc")
    hybrid, done = asked_of(proposal), labels_of(proposal)
    exclusive = labels_of(planned(view, variant="nahc"))
    assert {hybrid[name] for name in ("stem", "a", "c")} == {"both"}
    assert "both" not in exclusive.values()
    # What was asked for is not what was done: of both, one alone may be worth it.
    kept = {one.group for one in proposal.plan.decisions if one.kind == "keep_channels"}
    factored = {one.layer for one in proposal.plan.decisions if one.kind != "keep_channels"}
    for unit in proposal.evidence["units"]:
        both = unit["name"] in kept and bool(factored & set(unit["layers"]))
        assert (done[unit["name"]] == "both") == both


@pytest.mark.parametrize("name", ["mixed", "normed"])
def test_one_family_alone_leaves_the_other_out(name):
    view = sample(name)
    pruned, factored = (
        planned(view, Budget.parse("macs=0.7"), variant=f"{family}_only")
        for family in ("prune", "decompose")
    )
    assert {one.kind for one in pruned.plan.decisions} == {"keep_channels"}
    assert "keep_channels" not in {one.kind for one in factored.plan.decisions}
    for one, family in ((pruned, "prune"), (factored, "decompose")):
        assert one.predicted.macs <= 0.7 * view.graph.cost.macs
        smallest = Hmc(replace(FAST, variant=f"{family}_only")).smallest(view).macs
        assert Hmc(FAST).smallest(view).macs <= smallest <= one.predicted.macs
        assert {x for curves in one.sensitivities.values() for x in curves} == {family}
        assert family in labels_of(one).values()
        assert set(labels_of(one).values()) <= {family, "keep"}


def test_three_means_decides_the_borders(view, plain):
    clusters = planned(view, rule="three_means")
    assert clusters.evidence["rule"] == "three_means"
    assert clusters.evidence["borders"] != plain.evidence["borders"]


def test_differences_within_their_noise_are_both(view):
    exact, doubting = (planned(view, tau=0.0, standard_errors=times) for times in (0.0, 1e9))
    assert {unit["asked"] for unit in exact.evidence["units"][:3]} <= {"prune", "decompose"}
    units = [unit for unit in doubting.evidence["units"] if unit["difference_error"]]
    assert [unit["asked"] for unit in units] == ["both"] * 3


def test_the_estimator_decides_where_harms_come_from(view, plain):
    for name in ("second_order", "first_order"):
        said = []
        other = planned(replace(view, cache=None, say=said.append), estimator=name)
        assert said[0] == "sensitivities: none had to be measured"
        assert other.sensitivities != plain.sensitivities
        assert (other.evidence["estimator"], other.evidence["agreement"]) == (name, {})


def test_agreement_of_the_estimators_is_told_unless_it_is_not_wanted(view, plain):
    agreement = plain.evidence["agreement"]["second_order"]
    assert 0.5 < agreement["all"] < 1
    assert planned(view, compare=False).evidence["agreement"] == {}
    assert planned(replace(view, task=Unequal())).evidence["agreement"] == {}


def test_evidence_can_be_written(plain):
    rows = json.loads(json.dumps(plain.evidence))["units"]
    assert all(
        len(row["errors"][name]) == len(row["curves"][name])
        for row in rows
        for name in row["curves"]
    )


def test_alone_all_together_are_one(view, plain):
    assert Hmc(FAST).plan_together(view, HALF).plan == plain.plan


def asked(proposal, which: str = "asked") -> dict[str, str]:
    return {unit["name"]: unit[which] for unit in proposal.evidence["units"]}


def test_controls_deal_out_the_measured_labels_anew(view, plain):
    options = {"variant": "nahc", "rounds": 1, "weigh": "summed"}
    measured = planned(view, **options)
    inverted = planned(view, **options, groups="inverted")
    assert asked(inverted, "measured") == asked(measured)
    swapped = {"prune": "decompose", "decompose": "prune"}
    for unit in inverted.evidence["units"]:
        free = len(unit["curves"]) == 2 and len(unit["layers"]) == 1
        expected = swapped[unit["measured"]] if free else unit["measured"]
        assert unit["asked"] == expected
    assert inverted.plan != measured.plan
    moved = sum(unit["asked"] != unit["measured"] for unit in inverted.evidence["units"])
    assert inverted.evidence["dealt_otherwise"] == moved > 0
    assert "dealt_otherwise" not in measured.evidence
    assert inverted.evidence["harm"] > measured.evidence["harm"]


def test_the_seed_decides_random_groups(view, monkeypatch):
    given = {"stem": "prune", "a": "decompose", "c": "both", "head": "decompose"}
    monkeypatch.setattr(solving, "labels_of", lambda *_: given)
    dealt = [asked(planned(view, groups="random", groups_seed=seed)) for seed in range(4)]
    assert all(sorted(one.values()) == sorted(given.values()) for one in dealt)
    assert all(one["stem"] == "prune" for one in dealt)  # a stream of two layers keeps its own
    assert len({tuple(one.values()) for one in dealt}) > 1
    assert asked(planned(replace(view, seed=3), groups="random")) == dealt[3]


def test_criterion_decides_which_channels_stay(view):
    cuts = [
        planned(view, variant="prune_only", criterion=one).plan.decisions
        for one in ("l1", "fpgm", "reconstruction")
    ]
    assert all(one != other for i, one in enumerate(cuts) for other in cuts[:i])


def test_families_decide_the_decompositions(view):
    for family in ("tucker2", "channel_svd"):
        ignoring = replace(view, ignore=frozenset())
        plan = planned(ignoring, Budget.parse("macs=0.4"), variant="nahc", families=(family,)).plan
        kinds = {one.kind for one in plan.decisions} - {"keep_channels"}
        assert kinds <= {family}
    one = planned(view, HALF, variant="decompose_only", families=("channel_svd",))
    assert {one.kind for one in one.plan.decisions} == {"channel_svd"}


def test_fractions_decide_where_harm_is_measured(view, plain):
    other = planned(view, fractions=(0.5,))
    once, twice = (
        [x for x, _ in one.sensitivities["a"]["prune"] if x < 0.95] for one in (other, plain)
    )
    assert once == [pytest.approx(0.5, abs=0.05)]
    assert len(twice) == 2
    again = planned(view, fractions=(0.5, 0.5))
    assert again.sensitivities == other.sensitivities


def test_tau_decides_what_is_both(view):
    exact = planned(view, tau=0.0, standard_errors=0.0)
    assert "both" not in labels_of(exact).values()
    assert exact.evidence["borders"] == {"decompose_below": 0.0, "prune_above": 0.0}
    wide = asked_of(planned(view, tau=1e9, keep_above=1e9))
    assert {wide[name] for name in ("stem", "a", "c")} == {"both"}


def test_keep_above_decides_what_is_kept(view):
    some, none = (
        labels_of(planned(view, Budget.parse("macs=0.6"), tau=0.0, keep_above=times))
        for times in (0.99, 1e9)
    )
    assert some["c"] == "keep"
    assert none["c"] != "keep"


@pytest.mark.parametrize(
    ("variant", "changes"),
    [("decompose_only", {"whiten": False}), ("prune_only", {"rebuild": False})],
    ids=str,
)
def test_whiten_and_rebuild_decide_the_values(view, variant, changes):
    one, other = (planned(view, HALF, variant=variant, **more).values for more in ({}, changes))
    assert one.keys() != other.keys() or any(
        one[n].shape != other[n].shape or not torch.allclose(one[n], other[n]) for n in one
    )


def test_images_bound_the_measurement(view):
    few, more = (planned(replace(view, cache=None), images=n).evidence for n in (16, 32))
    assert few["forwards"]["naive"] == 2 * more["forwards"]["naive"]  # one batch is taken as four


def test_statistics_images_bound_the_statistics(view):
    one, other = (planned(view, statistics_images=n) for n in (16, 32))
    assert one.sensitivities != other.sensitivities


def solved_labels(view, prune: HarmCurve, decompose: HarmCurve, rounds: int) -> dict[str, str]:
    """Group and search with curves that are given for all units."""
    units = units_of(view.graph, ())
    scores = {unit.name: torch.rand(unit.group.channels) for unit in units if unit.group}
    pricer = Pricer(view.model, view.graph)
    menu = menu_of(units, cuts_of(units, scores, 1), pricer, FAMILIES, 1)
    measured = Sensitivities(
        curves={unit.name: {"prune": prune, "decompose": decompose} for unit in units},
        layer_curves={},
        noise=1e-6,
        forwards={},
        prune_harm=lambda unit, kept: prune(1 - len(kept) / unit.group.channels),
        rank_harm=lambda layer, option: decompose(1 - option.fractions[0]),
    )
    limits = Budget.parse("macs=0.2").limits(view.graph.cost)
    solver = Solver(menu, measured, limits, Rule("hmc", 0.0, 20))
    return dict(solver.solve((0.25,), rounds).labels)


def test_rounds_group_again_at_the_solved_fractions(view):
    # Little is better pruned, much is better decomposed; the budget asks for much.
    prune = HarmCurve.through([(0.25, 1e-3), (0.9, 1.0)])
    decompose = HarmCurve.through([(0.25, 1e-2), (0.9, 2e-2)])
    assert solved_labels(view, prune, decompose, rounds=1)["a"] == "prune"
    assert solved_labels(view, prune, decompose, rounds=2)["a"] == "decompose"


def test_a_round_that_does_worse_does_not_count(view, monkeypatch):
    flat = HarmCurve.through([(0.25, 1e-3), (0.9, 2e-3)])
    steep = HarmCurve.through([(0.25, 1e-2), (0.9, 1.0)])
    misled = dict.fromkeys(("stem", "a", "c", "head"), (0.0, 0.0))
    monkeypatch.setattr(solving, "solved_fractions", lambda *_: misled)
    once = solved_labels(view, flat, steep, rounds=1)
    assert solved_labels(view, flat, steep, rounds=2) == once
    assert once["a"] == "prune"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "hcm"}, "variant='hcm': expected one of hmc, nahc, ahc"),
        ({"estimator": "guess"}, "estimator='guess': expected one of measured, second_order"),
        ({"rule": "kmeans"}, "rule='kmeans': expected one of tau, three_means"),
        ({"groups": "reversed"}, "groups='reversed': expected one of measured, random, inverted"),
        ({"groups": "random", "variant": "ahc"}, "groups='random': ahc puts all units into one"),
        ({"groups": "inverted", "variant": "prune_only"}, "prune_only puts all units into one"),
        ({"groups_seed": 3}, "groups_seed=3: nothing is drawn with groups='measured'"),
        ({"groups_seed": 3, "groups": "inverted"}, "nothing is drawn with groups='inverted'"),
        ({"rule": "three_means", "variant": "nahc"}, "which only variant hmc has, not nahc"),
        ({"rule": "three_means", "tau": 0.1}, "tau=0.1: rule three_means finds the borders"),
        ({"standard_errors": -1.0}, "standard_errors=-1.0: expected at least 0"),
        ({"standard_errors": float("nan")}, "standard_errors=nan: expected at least 0"),
        ({"criterion": "l3"}, "criterion='l3': expected one of reconstruction, l1"),
        ({"families": ()}, r"families=\[\]: expected some of tucker2"),
        ({"families": ("cp",)}, r"families=\['cp'\]: expected some of"),
        ({"fractions": ()}, r"fractions=\[\]: expected numbers in \(0, 1\)"),
        ({"fractions": (0.5, 1.0)}, r"expected numbers in \(0, 1\)"),
        ({"images": 0}, "images=0: expected at least 1"),
        ({"statistics_images": 0}, "statistics_images=0: expected at least 1"),
        ({"rounds": 0}, "rounds=0: expected at least 1"),
        ({"tau": float("nan")}, "tau=nan: expected"),
        ({"tau": -0.5}, "tau=-0.5: expected 0 or more nats, or -1"),
        ({"groups": "random", "groups_seed": -7}, "groups_seed=-7: expected 0 or more, or -1"),
        ({"weigh": "guessed"}, "weigh='guessed': expected one of measured, summed"),
        ({"variant": "nahc", "tau": 0.5}, "tau=0.5: has no effect with variant=nahc; .* hmc"),
        ({"variant": "ahc", "rounds": 3}, "rounds=3: has no effect with variant=ahc"),
        ({"variant": "ahc", "keep_above": 2.0}, "keep_above=2.0: has no effect with variant=ahc"),
        (
            {"variant": "prune_only", "ranks": "energy"},
            "ranks='energy': has no effect with variant",
        ),
        ({"variant": "prune_only", "whiten": False}, "whiten=False: has no effect with variant"),
        ({"variant": "decompose_only", "rebuild": False}, "rebuild=False: has no effect with"),
        ({"variant": "ahc_sum", "criterion": "l1"}, "criterion='l1': has no effect with variant"),
        ({"keep_above": 0.0}, "keep_above=0.0: expected more than 0"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(RecipeError, match=message):
        replace(FAST, **changes)


class Unequal(Classification):
    """A task of the user's own."""

    def distance(self, outputs, reference, temperature=1.0):
        return (outputs - reference).abs().mean()


def test_the_task_decides_what_harm_is(view, plain):
    other = planned(replace(view, task=Unequal()))
    assert other.sensitivities != plain.sensitivities
