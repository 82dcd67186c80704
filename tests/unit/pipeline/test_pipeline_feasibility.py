from dataclasses import dataclass

import pytest

from lissom.errors import BudgetError
from lissom.pipeline import feasibility as module
from lissom.pipeline.feasibility import feasibility, stage_budgets
from lissom.plan.budget import Budget
from lissom.plan.cost import Cost

NOW, SMALLEST = Cost(1_000, 2_000_000, 32_000), Cost(100, 400_000, 3_201)


@dataclass(frozen=True)
class Held:
    name: str
    limits: frozenset[str]


@dataclass(frozen=True)
class Finishing(Held):
    finishes: bool = True
    keeps_levels: bool = True
    tuning: tuple[str, ...] = ()


HMC = Held("hmc", frozenset({"macs", "params"}))
LEVELS = Held("levels", frozenset({"size", "max_drop"}))


INT8 = Finishing("int8", frozenset({"max_drop"}))
ROUNDING = Finishing("int8", frozenset({"max_drop"}), keeps_levels=False)


def compared(budget: str, *methods: Held, now: Cost = NOW):
    return feasibility(methods or [HMC], Budget.parse(budget), now, lambda _stage: SMALLEST)


def test_each_limit_has_a_row() -> None:
    table = compared("macs=0.5,params=4x")
    table.check()
    rows = {row.quantity: (row.smallest, row.now, row.asked, row.text) for row in table.rows}
    assert rows == {
        "macs": (400_000, 2_000_000, 1_000_000, "0.5"),
        "params": (100, 1_000, 250, "4x"),
    }
    lines = [line.split() for line in table.table.splitlines()]
    assert lines[0] == ["budget", "smallest", "now", "asked"]
    assert ["macs", "400,000", "2,000,000", "1,000,000"] in lines


def test_bytes_and_points_have_rows_too() -> None:
    table = compared("size=8x,max_drop=1.5", LEVELS)
    table.check()
    rows = {row.quantity: (row.smallest, row.now, row.asked, row.text) for row in table.rows}
    assert rows == {"size": (401, 4_000, 500, "8x"), "max_drop": (None, None, 1.5, "1.5")}
    lines = [line.split() for line in table.table.splitlines()]
    assert lines[1:] == [["size", "401", "4,000", "500"], ["max_drop", "-", "-", "1.5"]]


def test_latency_has_a_row_and_belongs_to_the_last_stage_that_knows_it() -> None:
    timed = Held("timed", frozenset({"macs", "latency"}))
    table = compared("latency=2.5ms", timed)
    table.check()
    rows = {row.quantity: (row.smallest, row.now, row.asked, row.text) for row in table.rows}
    assert rows == {"latency": (None, None, 2.5, "2.5ms")}
    budgets = stage_budgets(Budget.parse("macs=0.25,latency=0.5"), NOW, [timed, timed, LEVELS])
    assert [str(one) for one in budgets] == ["macs=1000000", "macs=500000,latency=0.5", ""]


def test_structure_and_int8_are_both_held_to_the_whole_latency() -> None:
    timed = Held("timed", frozenset({"macs", "latency"}))
    last = Finishing("int8", frozenset({"max_drop", "latency"}))
    budget = Budget.parse("latency=0.5,max_drop=1")
    assert [str(one) for one in stage_budgets(budget, NOW, [timed, timed, last])] == [
        "",
        "latency=0.5",
        "latency=0.5,max_drop=1",
    ]
    assert [str(one) for one in stage_budgets(budget, NOW, [LEVELS, last])] == [
        "max_drop=0.9",
        "latency=0.5,max_drop=1",
    ]


def test_the_smallest_reachable_is_feasible_and_one_less_is_not() -> None:
    compared("macs=400000").check()
    table = compared("macs=399999")
    assert not table.rows[0].feasible
    with pytest.raises(BudgetError, match=r"\(macs=0\.200\)\. Allow more, set round_to=1, or ign"):
        table.check()
    compared("size=401B", LEVELS).check()
    with pytest.raises(BudgetError, match=r"reach is 401 \(size=0\.100\)\. Allow more, or ignore"):
        compared("size=400B", LEVELS).check()


def test_what_a_later_stage_reaches_is_not_known_beforehand() -> None:
    table = compared("macs=0.5,size=1B", HMC, LEVELS)
    assert {row.quantity: row.smallest for row in table.rows} == {"macs": 400_000, "size": None}
    table.check()


def test_every_stage_that_shares_a_limit_with_the_first_is_asked_and_the_best_answer_counts() -> (
    None
):
    least = {"hmc": Cost(100, 400_000), "deep": Cost(120, 50_000), "levels": Cost(1, 1)}
    asked: list[str] = []

    def smallest(stage: int) -> Cost:
        asked.append(("hmc", "deep", "levels")[stage])
        return least[asked[-1]]

    deep = Held("deep", frozenset({"macs"}))
    budget = Budget.parse("macs=0.03,params=0.5,size=8x")
    table = feasibility([HMC, deep, LEVELS], budget, NOW, smallest)
    assert asked == ["hmc", "deep"]
    rows = {row.quantity: row.smallest for row in table.rows}
    assert rows == {"macs": 50_000, "params": 100, "size": None}
    assert table.smallest == least["hmc"]
    table.check()
    with pytest.raises(BudgetError, match="the smallest that hmc or deep can reach is 50,000"):
        feasibility([HMC, deep], Budget.parse("macs=0.02"), NOW, smallest).check()


@pytest.mark.parametrize("budget", ["size=0.5", "max_drop=1", "macs=0.5,size=40kB"])
def test_what_a_method_can_not_be_held_to_is_said_with_those_that_can(
    budget: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "METHODS", {"hmc": HMC, "levels": LEVELS})
    quantity, example = ("max_drop", "1.0") if "max" in budget else ("size", "25x")
    with pytest.raises(BudgetError) as caught:
        compared(budget)
    assert str(caught.value) == (
        f"budget: a limit on {quantity} is not offered here: hmc can be held to macs and params; "
        f"levels can: for example --method levels --budget {quantity}={example}"
    )


def test_what_no_method_can_be_held_to_is_said(monkeypatch) -> None:
    monkeypatch.setattr("lissom.pipeline.feasibility.METHODS", {})
    with pytest.raises(BudgetError, match=r"no method can be held to latency; give macs=0\.5 or p"):
        compared("latency=2ms")


def test_stages_without_a_limit_and_stages_after_the_last_that_minds_bytes_are_refused() -> None:
    with pytest.raises(BudgetError, match="size=8x limits nothing that hmc can be held to; give m"):
        compared("size=8x", HMC, LEVELS)
    with pytest.raises(BudgetError, match=r"comes after levels changes .* put levels last"):
        compared("size=8x,macs=0.5", LEVELS, HMC)


def test_an_empty_budget_and_an_empty_network_are_refused() -> None:
    with pytest.raises(BudgetError, match="the budget is empty"):
        feasibility([HMC], Budget(), NOW, lambda _stage: SMALLEST)
    with pytest.raises(BudgetError, match="the network has no macs to limit"):
        compared("macs=0.5", now=Cost(10, 0, 320))


def test_one_stage_has_the_whole_budget_in_absolute_numbers() -> None:
    budget = Budget.parse("macs=0.3,params=7x")
    (only,) = stage_budgets(budget, NOW, [HMC])
    assert only.limits(Cost(1, 1)) == budget.limits(NOW)
    (only,) = stage_budgets(Budget.parse("size=7x,max_drop=2"), NOW, [LEVELS])
    assert (only.bytes_limit(Cost(1, 1)), only.max_drop.value) == (571, 2)
    assert str(only) == "size=571B,max_drop=2"


def test_the_last_of_many_stages_meets_the_budget_and_each_leaves_the_same_fraction() -> None:
    budget = Budget.parse("macs=0.125")
    limits = [one.limits(Cost(1, 1))["macs"] for one in stage_budgets(budget, NOW, [HMC] * 3)]
    assert limits == [1_000_000, 500_000, 250_000]


def test_each_stage_is_given_what_it_can_be_held_to() -> None:
    budget = Budget.parse("macs=0.25,size=4x,max_drop=1")
    both = Held("both", frozenset({"macs", "size", "max_drop"}))
    first, second, third = stage_budgets(budget, NOW, [HMC, both, LEVELS])
    assert [str(one) for one in (first, second, third)] == [
        "macs=1000000",
        "macs=500000,size=2000B",
        "size=1000B,max_drop=1",
    ]


def test_what_keeps_levels_may_follow_a_limit_on_size() -> None:
    compared("size=8x", LEVELS, INT8)
    with pytest.raises(
        BudgetError, match=r"int8 with weight_bits or reduce_range would round .* leave"
    ):
        compared("size=8x", LEVELS, ROUNDING)
    for budget in ("size=8x,macs=0.5", "max_drop=1,macs=0.5"):
        with pytest.raises(BudgetError, match="put levels last, or right before int8"):
            compared(budget, LEVELS, HMC, INT8)
    tuned = Finishing("int8", frozenset({"max_drop"}), tuning=("range_rate",))
    with pytest.raises(BudgetError, match="range_rate of int8 would have no effect after levels"):
        compared("size=8x", LEVELS, tuned)
    compared("macs=0.5", HMC, tuned)


def test_both_that_write_the_network_are_held_to_its_quality() -> None:
    budget = Budget.parse("macs=0.5,max_drop=2")
    first, second, third = stage_budgets(budget, NOW, [HMC, LEVELS, INT8])
    assert [str(one) for one in (second, third)] == ["max_drop=1.8", "max_drop=2"]
    assert first.max_drop is None
    first, second = stage_budgets(Budget.parse("macs=0.5,max_drop=2"), NOW, [HMC, INT8])
    assert (first.max_drop, str(second)) == (None, "max_drop=2")
