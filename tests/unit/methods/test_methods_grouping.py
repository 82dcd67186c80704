import math

import pytest

from lissom.graph.layers import ChannelGroup
from lissom.methods.grouping import Rule, differences, labels_of, threshold
from lissom.methods.units import Unit
from lissom.plan.cost import Cost
from lissom.search.curves import HarmCurve


def unit(name: str, *families: str) -> Unit:
    group = ChannelGroup(name, 8, (), (name,), ()) if "prune" in families else None
    return Unit(name, group, (name,) if "decompose" in families else (), Cost(1, 100, 32))


BOTH = ("prune", "decompose")
UNITS = [unit(name, *BOTH) for name in "abcd"]
DIFFERENCE = {"a": -4.0, "b": -0.5, "c": 0.5, "d": 4.0}
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
    assert found["a"] == pytest.approx(expected)


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
    assert threshold(DIFFERENCE, Rule("hmc", None, 20)) == pytest.approx(0.25 * 2.25)
    assert threshold({}, Rule("hmc", None, 20)) == 0


def test_units_with_one_family_get_that_one():
    units = [unit("a", "prune"), unit("b", "decompose"), unit("c")]
    assert labels(Rule("ahc", None, 20), units=units, difference={}) == "prune decompose keep"


def test_keep_above_decides_what_is_kept():
    harm = {"a": 1.0, "b": 1.0, "c": 1.0, "d": 5.0}
    assert labels(Rule("hmc", 1.0, 4.0), harm).endswith("keep")
    assert labels(Rule("hmc", 1.0, 6.0), harm).endswith("prune")
