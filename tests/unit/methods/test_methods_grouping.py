import math

import pytest

from lissom.graph.layers import ChannelGroup
from lissom.methods.grouping import (
    Difference,
    Rule,
    borders,
    control_labels,
    differences,
    labels_of,
    restricted,
    three_means,
)
from lissom.methods.units import Unit
from lissom.plan.cost import Cost
from lissom.search.curves import HarmCurve


def unit(name: str, *families: str) -> Unit:
    group = ChannelGroup(name, 8, (), (name,), ()) if "prune" in families else None
    return Unit(name, group, (name,) if "decompose" in families else (), Cost(1, 100, 32))


BOTH = ("prune", "decompose")
UNITS = [unit(name, *BOTH) for name in "abcd"]
VALUES = (-4.0, -0.5, 0.5, 4.0)
DIFFERENCE = {name: Difference(value) for name, value in zip("abcd", VALUES, strict=True)}
FLAT = dict.fromkeys("abcd", 1.0)


def labels(rule: Rule, harm=FLAT, units=UNITS, difference=DIFFERENCE) -> str:
    found = labels_of(units, difference, harm, rule)
    return " ".join(found[one.name] for one in units)


def test_difference_is_the_mean_of_log_ratios():
    line = HarmCurve.through
    curves = {
        "a": {"prune": line([(0.5, 1.0), (0.9, 2.0)]), "decompose": line([(0.5, 3.0), (0.9, 8.0)])}
    }
    expected = (math.log(3.1 / 1.1) + math.log(8.1 / 2.1)) / 2
    found = differences([UNITS[0]], curves, {"a": (0.5, 0.9)}, noise=0.1)
    assert found["a"].value == pytest.approx(expected)
    assert found["a"].error == 0


def test_the_error_of_a_difference_is_propagated():
    curves = {
        "a": {
            "prune": HarmCurve.through([(0.5, 1.0, 0.3), (0.9, 2.0, 0.0)]),
            "decompose": HarmCurve.through([(0.5, 2.0, 0.8), (0.9, 4.0, 0.4)]),
        }
    }
    found = differences([UNITS[0]], curves, {"a": (0.5, 0.9)}, noise=1e-12)
    assert found["a"].error == pytest.approx((math.hypot(0.3, 0.4) + 0.1) / 2)


def test_a_difference_within_its_noise_is_both_but_in_nahc():
    doubtful = {**DIFFERENCE, "d": Difference(4.0, 2.0)}
    assert labels(Rule("hmc", 1.0, 20, standard_errors=1.9), difference=doubtful).endswith("prune")
    assert labels(Rule("hmc", 1.0, 20, standard_errors=2.0), difference=doubtful).endswith("both")
    assert labels(Rule("nahc", 1.0, 20, standard_errors=9), difference=doubtful).endswith("prune")


def test_units_with_one_family_have_no_difference():
    assert differences([unit("a", "prune")], {"a": {}}, {"a": (0.5,)}, 0.1) == {}


def test_hmc_has_all_groups():
    assert labels(Rule("hmc", 1.0, 20)) == "decompose both both prune"
    assert labels(Rule("hmc", 1.0, 20), {**FLAT, "d": 21.0}) == "decompose both both keep"


def test_nahc_has_no_both_and_ahc_nothing_else():
    assert labels(Rule("nahc", 1.0, 20)) == "decompose decompose prune prune"
    assert labels(Rule("ahc", 1.0, 20), {**FLAT, "d": 1e9}) == "both both both both"


def test_tau_sweeps_from_ahc_over_hmc_to_nahc():
    swept = [labels(Rule("hmc", tau, math.inf)) for tau in (10.0, 1.0, 0.0)]
    assert swept[0] == labels(Rule("ahc", None, 20))
    assert swept[1] == "decompose both both prune"
    assert swept[2] == labels(Rule("nahc", None, 20))


def test_default_tau_is_a_quarter_of_the_median():
    assert borders(VALUES, Rule("hmc", None, 20)) == pytest.approx((-0.5625, 0.5625))
    assert borders([], Rule("hmc", None, 20)) == (0, 0)


MEANS = Rule("hmc", None, 20, "three_means")


def test_three_means_puts_the_borders_halfway():
    assert borders([-4.0, -3.0, -0.5, 0.5, 4.0, 5.0], MEANS) == (-1.75, 2.25)
    assert labels(MEANS) == "decompose both both prune"


def test_three_means_never_turns_a_cluster_against_its_sign():
    assert borders([1.0, 1.1, 3.0, 3.1, 9.0], MEANS) == pytest.approx((-math.inf, 2.05))
    assert borders([-1.0, -3.0, -9.0], MEANS) == pytest.approx((-2.0, math.inf))
    assert borders([2.0], MEANS) == (-math.inf, math.inf)
    assert borders([], MEANS) == (0, 0)


def test_clusters_are_the_best_there_are():
    assert three_means([5.0, 0.0, 5.5, 1.0, 9.0]) == ((0.0, 1.0), (5.0, 5.5), (9.0,))
    assert three_means([2.0, 2.0, 2.0]) == ((2.0, 2.0, 2.0),)
    assert three_means([]) == ()


def test_controls_have_as_many_of_each_label():
    units = [*UNITS, unit("e", "prune")]
    measured = {"a": "decompose", "b": "both", "c": "keep", "d": "prune", "e": "prune"}
    inverted = {"a": "prune", "b": "both", "c": "keep", "d": "decompose", "e": "prune"}
    assert control_labels(units, measured, "inverted", 0) == inverted
    assert control_labels(units, measured, "measured", 0) == measured
    dealt = [control_labels(units, measured, "random", seed) for seed in range(20)]
    assert dealt[7] == control_labels(units, measured, "random", 7)
    assert all(sorted(one.values()) == sorted(measured.values()) for one in dealt)
    assert all(one["e"] == "prune" for one in dealt)
    assert {one["a"] for one in dealt} == {"decompose", "both", "keep", "prune"}


def test_variants_of_one_family_leave_out_what_it_cant_do():
    units = [unit("a", *BOTH), unit("b", "prune"), unit("c", "decompose")]
    assert restricted(units, "hmc") == tuple(units)
    pruned, factored = restricted(units, "prune_only"), restricted(units, "decompose_only")
    assert [(one.name, one.families) for one in pruned] == [("a", ("prune",)), ("b", ("prune",))]
    assert [(one.name, one.families) for one in factored] == [
        ("a", ("decompose",)),
        ("c", ("decompose",)),
    ]


def test_units_with_one_family_get_that_one():
    units = [unit("a", "prune"), unit("b", "decompose"), unit("c")]
    assert labels(Rule("ahc", None, 20), units=units, difference={}) == "prune decompose keep"


def test_keep_above_decides_what_is_kept():
    harm = {"a": 1.0, "b": 1.0, "c": 1.0, "d": 5.0}
    assert labels(Rule("hmc", 1.0, 4.0), harm).endswith("keep")
    assert labels(Rule("hmc", 1.0, 6.0), harm).endswith("prune")
