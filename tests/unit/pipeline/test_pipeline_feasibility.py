import pytest

from lissom.errors import BudgetError
from lissom.pipeline.feasibility import feasibility, stage_budgets
from lissom.plan.budget import Budget
from lissom.plan.cost import Cost

NOW, SMALLEST = Cost(1_000, 2_000_000, 32_000), Cost(100, 400_000, 3_200)


def compared(budget: str, now: Cost = NOW):
    return feasibility("hmc", Budget.parse(budget), now, SMALLEST)


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


def test_the_smallest_reachable_is_feasible_and_one_less_is_not() -> None:
    compared("macs=400000").check()
    table = compared("macs=399999")
    assert not table.rows[0].feasible
    with pytest.raises(BudgetError, match=r"can reach is 400,000 \(macs=0\.200\)\. Allow more"):
        table.check()


@pytest.mark.parametrize("budget", ["size=0.5", "latency=2ms", "max_drop=1", "macs=0.5,size=40kB"])
def test_what_is_not_offered_is_said(budget: str) -> None:
    with pytest.raises(BudgetError, match=r"is not offered yet: hmc can be held to macs and param"):
        compared(budget)


def test_an_empty_budget_and_an_empty_network_are_refused() -> None:
    with pytest.raises(BudgetError, match="the budget is empty"):
        feasibility("hmc", Budget(), NOW, SMALLEST)
    with pytest.raises(BudgetError, match="the network has no macs to limit"):
        compared("macs=0.5", now=Cost(10, 0, 320))


def test_one_stage_has_the_whole_budget_in_absolute_numbers() -> None:
    budget = Budget.parse("macs=0.3,params=7x")
    (only,) = stage_budgets(budget, NOW, 1)
    assert only.limits(Cost(1, 1)) == budget.limits(NOW)


def test_the_last_of_many_stages_meets_the_budget_and_each_leaves_the_same_fraction() -> None:
    budget = Budget.parse("macs=0.125")
    limits = [one.limits(Cost(1, 1))["macs"] for one in stage_budgets(budget, NOW, 3)]
    assert limits == [1_000_000, 500_000, 250_000]
