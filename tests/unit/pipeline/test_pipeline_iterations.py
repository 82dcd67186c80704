from dataclasses import dataclass, field

import pytest

from lissom.errors import BudgetError, RecipeError
from lissom.pipeline.iterations import (
    Iterated,
    Step,
    foreseen,
    iterated,
    steps_of,
)
from lissom.plan.budget import Budget
from lissom.plan.cost import Cost

COUNTS = frozenset({"macs", "params"})
NOW = Cost(1_000, 80_000)


@dataclass(frozen=True)
class Held:
    name: str = "hmc"
    limits: frozenset[str] = field(default=COUNTS)
    trains: bool = False


def steps(budget: str, *stages: Iterated, epochs: int = 20) -> tuple[Step, ...]:
    return steps_of(stages, Budget.parse(budget), NOW, epochs)


def asked(found: tuple[Step, ...]) -> list[dict[str, float | str]]:
    return [dict(row.asked) for row in foreseen(found, NOW)]


def test_each_iteration_goes_the_same_fraction_of_the_way_and_the_last_one_all_of_it() -> None:
    found = steps("macs=0.125,params=0.512", Iterated(Held(), 3))
    assert asked(found) == [
        {"params": 800, "macs": 40_000},
        {"params": 640, "macs": 20_000},
        {"params": 512, "macs": 10_000},
    ]
    assert [step.title for step in found][1:] == ["hmc, iteration 2 of 3", "hmc, iteration 3 of 3"]


def test_the_way_is_that_from_the_network_that_is_found() -> None:
    first, second, last = steps("macs=0.125,params=0.5", Iterated(Held(), 3))
    assert first.budget(NOW).limits(NOW) == {"macs": 40_000, "params": 794}
    # Fewer MACs than asked: a geometric mean from there. Fewer parameters than the target: that.
    assert second.budget(Cost(450, 14_400)).limits(NOW) == {"macs": 12_000, "params": 500}
    assert last.budget(Cost(450, 11_000)).limits(NOW) == {"macs": 10_000, "params": 500}


def test_stages_share_the_way_before_their_iterations_do() -> None:
    found = steps("macs=0.0625", Iterated(Held(), 2), Iterated(Held("edp", trains=True)))
    assert asked(found) == [{"macs": 40_000}, {"macs": 20_000}, {"macs": 5_000}]
    assert [(step.stage, step.iteration, step.iterations) for step in found] == [
        (0, 1, 2),
        (0, 2, 2),
        (1, 1, 1),
    ]
    assert found[2].title == "edp"


def test_what_is_no_count_is_asked_of_the_last_iteration_alone() -> None:
    both = Held("both", COUNTS | {"size"})
    first, last = steps("macs=0.25,size=8x", Iterated(both, 2))
    assert str(first.budget(NOW)) == "macs=40000"
    assert str(last.budget(NOW)) == "macs=20000,size=500B"
    with pytest.raises(BudgetError, match="the 2 iterations of both go by; give macs"):
        steps("size=8x", Iterated(both, 2))
    assert len(steps("size=8x", Iterated(both))) == 1
    timed = Held("timed", COUNTS | {"latency"})
    assert asked(steps("macs=0.25,latency=0.5", Iterated(timed, 2))) == [
        {"macs": 40_000},
        {"macs": 20_000, "latency": "0.5"},
    ]


@pytest.mark.parametrize(
    ("given", "epochs", "expected"),
    [(None, 20, [2, 2, 20]), (None, 11, [2, 2, 11]), (None, 0, [0, 0, 0]), (0, 5, [0, 0, 5])],
)
def test_recovery_is_brief_but_for_the_last(
    given: int | None, epochs: int, expected: list[int]
) -> None:
    found = steps("macs=0.5", Iterated(Held(), 3, given), epochs=epochs)
    assert [step.epochs for step in found] == expected
    assert [row.epochs for row in foreseen(found, NOW)] == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((Held(), 0), r"^iterations=0: expected 1 \(the whole way at once\) or more"),
        ((Held(), 2, -1), "^iteration_epochs=-1: expected 0"),
        ((Held(), 1, 2), "^iteration_epochs=2: .* there is only one; give iterations=2"),
        ((Held("edp", trains=True), 3), "^iterations=3: edp goes its way in a training of its own"),
        ((Held("ajc", frozenset({"size"})), 2), "ajc can't be held to those; drop iterations"),
    ],
)
def test_what_means_nothing_is_refused(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Iterated(*arguments)  # type: ignore[arg-type]


def test_a_method_alone_goes_its_way_at_once() -> None:
    learner = Held("edp", trains=True)
    assert iterated(learner) == Iterated(learner)
    assert iterated(Iterated(Held(), 2)) == Iterated(Held(), 2)


def test_what_one_step_can_not_reach_is_refused_with_the_step() -> None:
    first, _ = steps("macs=0.25", Iterated(Held(), 2))
    first.check(NOW, Cost(1, 40_000, 32))
    message = r"^hmc, iteration 1 of 2: budget: macs=40000 asks .* can reach is 40,001 \(macs=0\.5"
    with pytest.raises(BudgetError, match=message):
        first.check(NOW, Cost(1, 40_001, 32))
