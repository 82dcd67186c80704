from __future__ import annotations

import json

import pytest

from lissom.errors import BudgetError
from lissom.plan.budget import Budget, Meaning
from lissom.plan.cost import Cost

ORIGINAL = Cost(params=853_018, macs=125_485_706, bits=0)


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("macs=0.5", {"macs": 62_742_853}),
        ("macs=2x", {"macs": 62_742_853}),
        ("macs=62.7M", {"macs": 62_700_000}),
        ("macs=0.1G", {"macs": 100_000_000}),
        ("macs=62700000", {"macs": 62_700_000}),
        ("params=25x", {"params": 34_120}),
        ("params=40k, macs = .5", {"params": 40_000, "macs": 62_742_853}),
        ("size=40kB,latency=2.5ms,max_drop=0", {}),
    ],
)
def test_limits_on_counts(text, limits) -> None:
    assert Budget.parse(text).limits(ORIGINAL) == limits


def test_mapping_and_text_mean_the_same() -> None:
    assert Budget.parse({"macs": 0.5, "params": "25x"}) == Budget.parse("params=25x,macs=0.5")
    assert Budget.parse({"params": 40_000}).limits(ORIGINAL) == {"params": 40_000}
    assert str(Budget.parse("macs=0.5,size=40kB")) == "macs=0.5,size=40kB"
    assert Budget.parse(str(Budget.parse("params=25x,macs=4e-1"))) == Budget.parse(
        "params=25x,macs=4e-1"
    )


def test_exact_ratio_is_not_rounded_away() -> None:
    assert Budget.parse("params=49x").limits(Cost(params=49)) == {"params": 1}


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("size=25x", 136_482),  # 4 * 853,018 / 25 = 136,482.88
        ("size=0.25", 853_018),
        ("size=40kB", 40_000),
        ("size=1.5B", 1),
        ("macs=0.5", None),
    ],
)
def test_limits_on_bytes_are_of_the_parameters_as_float32(text, limit) -> None:
    assert Budget.parse(text).bytes_limit(ORIGINAL) == limit


def test_base_units() -> None:
    budget = Budget.parse("size=40kB,latency=1.5s,max_drop=0.5")
    assert budget.size is not None
    assert budget.latency is not None
    assert budget.max_drop is not None
    assert (budget.size.value, budget.latency.value, budget.max_drop.value) == (40_000, 1_500, 0.5)
    assert budget.size.meaning is Meaning.ABSOLUTE
    assert budget.latency.resolve(9.0) == 1_500
    as_json = json.loads(json.dumps(budget.to_dict()))
    assert as_json["size"] == {"meaning": "absolute", "value": 40_000, "unit": "B", "text": "40kB"}
    assert as_json["max_drop"]["unit"] == "points"


def test_met_is_about_all_counts() -> None:
    budget = Budget.parse("macs=0.5,params=0.5")
    half = Cost(params=426_509, macs=62_742_853)
    assert budget.met(ORIGINAL, half)
    assert not budget.met(ORIGINAL, half + Cost(macs=1))
    assert not budget.met(ORIGINAL, half + Cost(params=1))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", r"the budget is empty; expected for example macs=0.5"),
        ({}, r"the budget is empty"),
        ("macs", r"'macs' is not KEY=VALUE"),
        ("mac=0.5", r"unknown key 'mac'; known are params, macs, size, latency, max_drop"),
        ("macs=0.5,macs=0.4", r"macs is given twice"),
        ("macs=0", r"macs=0; expected a fraction between 0 and 1, a ratio, or a unit \(k, M, G\)"),
        ("macs=1.5", r"macs=1.5; expected a fraction"),
        ("macs=1", r"macs=1; expected a fraction"),
        ("macs=-0.5", r"expected a positive number"),
        ("macs=nan", r"expected a positive number"),
        ("macs=inf", r"expected a positive number"),
        ("macs=1e999M", r"expected a finite number"),
        ({"macs": float("nan")}, r"expected a positive number"),
        ({"macs": True}, r"expected a number or a text"),
        ({"macs": None}, r"expected a number or a text"),
        ("macs=1x", r"expected a ratio above 1x"),
        ("macs=0M", r"expected more than nothing"),
        ("macs=40kB", r"a unit \(k, M, G\)"),
        ("size=40000", r"a unit \(B, kB, MB, GB\)"),
        ("size=40k", r"size=0.25 \(a quarter\), size=20x"),
        ("latency=2.5", r"a unit \(us, ms, s\)"),
        ("max_drop=0.5%", r"expected a positive number"),
        ("max_drop=2x", r"expected points without a unit"),
    ],
)
def test_what_means_nothing_is_refused_with_an_example(given, message) -> None:
    with pytest.raises(BudgetError, match=message):
        Budget.parse(given)
