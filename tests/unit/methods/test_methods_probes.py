from dataclasses import replace

import pytest
import torch

from lissom.methods.estimators import estimator_of
from lissom.methods.importance import importances
from lissom.methods.menu import FAMILIES, RankOption, rank_options
from lissom.methods.probes import Probing
from lissom.methods.units import units_of
from lissom.methods.weights import WeightMath, plain_layers
from lissom.search.price import Configuration, Pricer
from lissom.sensitivity.statistics import input_covariances
from lissom.train.processes import Processes
from method_samples import Normed, seeded, small_view, view_of

FRACTIONS = (0.25, 0.75)


def probing_of(view) -> Probing:
    layers = plain_layers(view.model, view.graph)
    covariances = input_covariances(view.model, layers, view.data.calibration, view.task, 32)
    scores = importances(units_of(view.graph, ()), view, "l2", {})
    weights = WeightMath(view.model, view.graph, covariances)
    return Probing(view, scores, FAMILIES, weights, Pricer(view.model, view.graph))


def estimator(probing, name: str = "measured"):
    return estimator_of(name, probing.view, 32, Processes())


@pytest.fixture(scope="module")
def probing():
    return probing_of(small_view())


@pytest.fixture(scope="module")
def units(probing):
    return units_of(probing.view.graph, ())


@pytest.fixture(scope="module")
def measured(probing, units):
    return probing.measure(units, FRACTIONS, estimator(probing), {})


def probes_of(probing, unit, family):
    return [probe for probe in probing._probes(unit, FRACTIONS) if probe.family == family]


def test_cuts_remove_about_what_was_asked_and_as_the_pricer_says(probing, units):
    for unit in units:
        if unit.group is None:
            continue
        probes = probes_of(probing, unit, "prune")
        within = sorted(probe.removed for probe in probes)[: len(FRACTIONS)]
        assert within == pytest.approx(FRACTIONS, abs=0.15)
        plain = probing.pricer.price(Configuration()).macs
        for probe in probes:
            alive = {
                name: tensor.abs().transpose(0, 1).flatten(1).sum(1) > 0
                for name, tensor in probe.candidate.overrides.items()
            }
            (kept,) = {tuple(mask.nonzero().flatten().tolist()) for mask in alive.values()}
            cut = probing.pricer.price(Configuration({unit.name: kept})).macs
            assert probe.removed == pytest.approx((plain - cut) / unit.cost.macs)


def test_cuts_are_tried_down_to_an_eighth_of_the_channels(probing, units):
    """Readers lose MACs, too: far more may go than the fractions say."""
    unit = next(unit for unit in units if unit.name == "a")
    channels = unit.group.channels
    probes = probes_of(probing, unit, "prune")
    read = [next(iter(probe.candidate.overrides.values())) for probe in probes]
    kept = {int((one.abs().transpose(0, 1).flatten(1).sum(1) > 0).sum()) for one in read}
    assert {channels // 2, channels // 4, channels // 8} <= kept
    assert max(probe.removed for probe in probes) > 1


def test_without_further_cuts_there_is_one_per_fraction(probing, units):
    alone = replace(probing, few=())
    for unit in units:
        if unit.group is not None:
            assert 1 <= len(probes_of(alone, unit, "prune")) <= len(FRACTIONS)
            assert len(probes_of(alone, unit, "prune")) < len(probes_of(probing, unit, "prune"))


def test_decompositions_take_the_family_that_errs_least(probing, units):
    unit = next(unit for unit in units if unit.name == "a")
    best = probes_of(probing, unit, "decompose")
    for family in FAMILIES:
        alone = probes_of(replace(probing, families=(family,)), unit, "decompose")
        for one, other in zip(best, alone, strict=True):
            assert one.error <= other.error
            assert one.removed == pytest.approx(other.removed, abs=0.15)
    assert all(set(probe.candidate.overrides) == {"a.weight"} for probe in best)


def test_every_unit_has_a_curve_per_family_that_rises(measured, units):
    for unit in units:
        assert set(measured.curves[unit.name]) == set(unit.families)
        for curve in measured.curves[unit.name].values():
            within = [x for x, _ in curve.points][: len(FRACTIONS)]
            assert within == pytest.approx(FRACTIONS, abs=0.15)
            assert 0 < curve(0.25) <= curve(0.75) < curve(0.95)


def test_harms_of_options_are_read_off_the_curves(probing, measured, units):
    unit = next(unit for unit in units if unit.name == "a")
    curve = measured.curves["a"]["prune"]
    plain = probing.pricer.price(Configuration()).macs
    kept = tuple(range(12))
    cut = probing.pricer.price(Configuration({"a": kept})).macs
    assert measured.prune_harm(unit, kept) == pytest.approx(curve((plain - cut) / unit.cost.macs))
    options = rank_options(probing.pricer.shapes["a"], ("tucker2",), 1)
    harms = [measured.rank_harm("a", option) for option in options]
    assert harms == sorted(harms)
    assert harms[0] < harms[-1]


def test_a_rank_that_saves_nothing_harms_nothing(measured):
    assert measured.rank_harm("a", RankOption("tucker2", (15 / 16,) * 2)) == 0


def test_each_option_is_factorized_once(probing, measured, monkeypatch):
    option = RankOption("channel_svd", (3 / 16,))
    first = measured.rank_harm("b", option)
    monkeypatch.setattr(WeightMath, "factors", None)
    assert measured.rank_harm("b", option) == first


def test_harms_are_listed_by_layer(measured, units):
    by_layer = measured.by_layer(units)
    assert by_layer["stem"] == by_layer["b"]
    assert by_layer["a"]["prune"] == measured.curves["a"]["prune"].points


def test_the_summary_counts(measured):
    assert measured.summary.startswith("sensitivities: ")
    assert "saved" in measured.summary
    cached = replace(measured, forwards={"naive": 0.0, "run": 0.0})
    assert cached.summary == "sensitivities: none had to be measured"


def test_channels_that_an_operator_computes_over_are_really_cut():
    view = view_of(seeded(Normed), 6)
    probing = probing_of(view)
    unit = next(unit for unit in units_of(view.graph, ()) if unit.name == "a")
    assert not unit.group.exact
    for probe in probes_of(probing, unit, "prune"):
        network = probe.candidate.rebuild()
        assert network.norm.normalized_shape[0] == network.a.out_features < 16
        assert network(torch.zeros(2, 6)).shape == (2, 4)
    harms = probing.measure([unit], FRACTIONS, estimator(probing), {})
    assert harms.curves["a"]["prune"](0.75) > 0


def test_curves_carry_the_errors_of_the_harms(probing, measured, units):
    unit = next(unit for unit in units if unit.name == "stem")
    harms = estimator(probing).harms([p.candidate for p in probing._probes(unit, FRACTIONS)])
    parts = probes_of(probing, unit, "decompose")
    mild = sum(
        error
        for probe, error in zip(probing._probes(unit, FRACTIONS), harms.error, strict=True)
        if probe.family == "decompose" and probe.asked == FRACTIONS[0]
    )
    assert {probe.layer for probe in parts} == {"stem", "b"}
    assert measured.curves["stem"]["decompose"].errors[0] == pytest.approx(mild)
    assert mild > 0


def test_estimators_are_compared(probing, units):
    others = {name: estimator(probing, name) for name in ("measured", "second_order")}
    found = probing.measure(units, FRACTIONS, estimator(probing), others).agreement
    assert found["measured"] == pytest.approx({"all": 1, "decompose": 1, "prune": 1})
    assert set(found["second_order"]) == {"all", "decompose", "prune"}
    assert 0.5 < found["second_order"]["all"] < 1
