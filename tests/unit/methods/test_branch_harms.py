"""Residual branches on HMC's menu."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lissom.errors import BudgetError, RecipeError
from lissom.extension import ModelView
from lissom.graph.branches import Branch, residual_branches
from lissom.graph.capture import capture
from lissom.measure.operation import operations_of
from lissom.methods.branch_harms import cost_by, drop_harms, droppable
from lissom.methods.hmc import Hmc, HmcSettings
from lissom.methods.rank_rules import EQUAL
from lissom.methods.solving import Solution, solved_fractions
from lissom.methods.space import DECOMPOSE, KEEP, Menu, menu_of
from lissom.methods.units import units_of
from lissom.methods.weighing import WholeHarm
from lissom.methods.weights import WeightMath
from lissom.pipeline.apply import applied
from lissom.pipeline.feasibility import feasibility, reach
from lissom.pipeline.iterations import Iterated, check_first, steps_of
from lissom.plan.budget import Budget
from lissom.plan.drop_residual import DropResidual
from lissom.search.lagrangian import solve
from lissom.search.price import Configuration, LowRank, Pricer
from lissom.task import Classification, Data
from lissom.train.recalibrate import refresh_statistics

IMAGE = (torch.zeros(1, 3, 8, 8),)


class Block(nn.Module):
    def __init__(self, strength):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(16, 16, 3, padding=1, bias=False) for _ in range(2))
        self.norm1, self.norm2 = nn.BatchNorm2d(16), nn.BatchNorm2d(16)
        nn.init.constant_(self.norm2.weight, strength)

    def forward(self, x):
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class Net(nn.Module):
    """Three blocks, of which the second says next to nothing."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.Sequential(Block(1.0), Block(0.01), Block(1.0))
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.blocks(F.relu(self.stem(x))).mean((2, 3)))


@pytest.fixture(scope="module")
def view():
    torch.manual_seed(0)
    model = Net().eval()
    batches = [(torch.randn(16, 3, 8, 8), torch.randint(0, 4, (16,))) for _ in range(2)]
    refresh_statistics(model, [(images,) for images, _ in batches])
    return ModelView(
        model=model,
        graph=capture(model, IMAGE),
        example_inputs=IMAGE,
        task=Classification(),
        data=Data(batches, batches, batches, batches),
        round_to=1,
    )


def names(branches):
    return [branch.name for branch in branches]


def test_branches_with_an_ignored_layer_stay(view):
    assert names(droppable(view)) == ["blocks.0", "blocks.1", "blocks.2"]
    kept = replace(view, ignore=frozenset({"blocks.1.conv2"}))
    assert names(droppable(kept)) == ["blocks.0", "blocks.2"]


def test_a_dropped_branch_costs_nothing_and_takes_its_other_decisions_with_it(view):
    branch = droppable(view)[1]
    pricer = Pricer(view.model, view.graph)
    group = next(one for one in view.graph.groups if one.name == "blocks.1.conv1")
    configuration = Configuration(
        {group.name: tuple(range(4))},
        {"blocks.1.conv2": LowRank("channel_svd", (2,)), "stem": LowRank("channel_svd", (3,))},
        (branch,),
    )
    assert pricer.layer("blocks.1.conv2", configuration).params == 0
    network = WeightMath(view.model, view.graph, {}).built(configuration)
    assert capture(network, IMAGE).cost == pricer.price(configuration)


class Known:
    """Knows the harm of each set of branches of the network, by their numbers."""

    def __init__(self, harms):
        self.known, self.asked = {"": 0.0} | harms, []

    def __call__(self, configuration):
        name = "".join(sorted(branch.name[-1] for branch in configuration.dropped))
        self.asked.append(name)
        return self.known[name]


SETS = ("0", "1", "2", "01", "02", "12", "012")


def saving(branches, saved):
    """Counts what is left when every branch saves what it saves alone."""
    each = dict(zip(names(branches), saved, strict=True))
    return lambda configuration: 100 - sum(each[one.name] for one in configuration.dropped)


def judged(view, known, saved=(1, 1, 1)):
    branches = droppable(view)
    found = drop_harms(branches, saving(branches, saved), known)
    return {name[-1]: harm for name, harm in found.items()}


def test_a_branch_harms_as_much_as_it_adds_to_those_that_went(view):
    """Alone the second and third harm little; one of them has to do the work of both."""
    known = Known({"0": 0.5, "1": 0.1, "2": 0.2, "01": 0.7, "12": 1.6, "012": 1.7})
    assert judged(view, known) == pytest.approx({"1": 0.1, "0": 0.6, "2": 1.0})
    assert list(judged(view, known)) == ["1", "0", "2"]
    assert known.asked[:7] == ["", "0", "1", "2", "12", "01", "012"]


def test_what_saves_nothing_has_a_harm_too(view):
    known = Known({"0": 0.5, "1": 0.1, "2": 0.2, "01": 0.7, "12": 1.6, "012": 1.7})
    assert judged(view, known, (0, 0, 0))["1"] == pytest.approx(0.1)


def test_what_is_there_before_any_drop_is_nobodys(view):
    known = Known({"": 0.1, "0": 0.5, "1": 0.1, "2": 0.2, "01": 0.7, "12": 1.6, "012": 1.7})
    harms = judged(view, known)
    assert harms == pytest.approx({"1": 0.0, "0": 0.6, "2": 1.0}, abs=1e-6)
    assert harms["1"] > 0  # else it would go whatever the limit


def test_the_price_per_saving_decides_and_never_falls_on_the_way(view):
    known = Known({"0": 0.5, "1": 0.1, "2": 0.2, "01": 0.5, "02": 0.9, "012": 1.0})
    assert judged(view, known, (10, 1, 1)) == pytest.approx({"0": 0.5, "1": 0.05, "2": 0.5})


def test_a_harm_that_falls_adds_nothing(view):
    known = Known({"0": 0.3, "1": 0.1, "2": 9.0, "01": 0.05, "12": 9.0, "012": 4.1})
    assert judged(view, known) == pytest.approx({"1": 0.1, "0": 0.1, "2": 4.0})


def test_after_each_drop_only_the_nearest_are_measured_anew(view):
    branches = [Branch(str(number), (f"{number}.one", f"{number}.two")) for number in range(6)]
    asked = []

    def harm(configuration):
        asked.append(len(configuration.dropped))
        return float(sum(1 + int(branch.name) for branch in configuration.dropped))

    found = drop_harms(branches, saving(branches, [1] * 6), harm)
    assert found == {str(number): number + 1.0 for number in range(6)}
    assert [asked.count(gone) for gone in range(7)] == [1, 6, 3, 3, 3, 2, 1]


def test_of_those_that_were_measured_anew_one_goes():
    """The fourth looks cheaper than they turn out to be, but that is from before the first drop."""
    alone = {"0": 0.1, "1": 0.2, "2": 0.3, "3": 0.4, "4": 0.5}
    branches = [Branch(name, (f"{name}.one", f"{name}.two")) for name in alone]

    def harm(configuration):
        gone = [branch.name for branch in configuration.dropped]
        return sum(alone[name] for name in gone) + (len(gone) > 1) * len(gone)

    found = drop_harms(branches, saving(branches, [1] * 5), harm)
    assert list(found)[:2] == ["0", "1"]
    assert found["1"] == pytest.approx(2.2)


def test_a_broken_network_is_never_taken(view):
    assert set(judged(view, Known({"": math.inf} | dict.fromkeys(SETS, 0.1))).values()) == {
        math.inf
    }
    known = Known({"0": 0.3, "1": math.inf, "2": 0.1, "02": 0.5, "12": math.inf, "012": math.inf})
    assert judged(view, known) == pytest.approx({"2": 0.1, "0": 0.4, "1": math.inf})
    assert drop_harms((), saving((), ()), known) == {}


def test_what_is_broken_together_ends_no_way():
    """Without the first any of the next three breaks the network, the last two do not."""
    branches = [Branch(str(number), (f"{number}.one", f"{number}.two")) for number in range(6)]

    def harm(configuration):
        gone = {int(branch.name) for branch in configuration.dropped}
        broken = 0 in gone and gone & {1, 2, 3}
        return math.inf if broken else sum((1 + one) / 10 for one in gone)

    found = drop_harms(branches, saving(branches, [1] * 6), harm)
    assert list(found)[:3] == ["0", "4", "5"]
    assert {name for name, harm in found.items() if math.isinf(harm)} == {"1", "2", "3"}
    assert [found[name] for name in ("0", "4", "5")] == pytest.approx([0.1, 0.5, 0.6])


def test_costs_are_nanoseconds_where_there_is_a_clock(view):
    branches = droppable(view)
    for pricer, each in (
        (Pricer(view.model, view.graph), 2 * 9 * 16 * 16 * 64),
        (Pricer(view.model, view.graph, PerOperator()), 2_000_000),
    ):
        cost = cost_by(pricer)
        assert cost(Configuration()) - cost(Configuration(dropped=branches[:1])) == each


class Nested(nn.Module):
    """A branch within a branch."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = (nn.Conv2d(3, 3, 1) for _ in range(3))

    def forward(self, x):
        inside = self.one(x)
        inside = inside + self.two(inside)
        return x + self.three(inside)


def nested(alone, inner, outer):
    """Judge the branches, and solve for each of four limits: what goes, its harm by the sum."""
    model = nn.Sequential(Nested(), nn.Flatten(), nn.Linear(192, 4)).eval()
    branches = residual_branches(model, IMAGE)
    assert names(branches) == ["0.two", "0"]
    pricer = Pricer(model, capture(model, IMAGE))

    def harm(configuration):
        gone = {branch.name for branch in configuration.dropped}
        return outer if "0" in gone else inner if gone else alone

    harms = drop_harms(branches, cost_by(pricer), harm)
    menu = Menu((), {}, {}, pricer, 1, branches)
    items, plain = menu.items({}), pricer.price(Configuration()).macs
    found = []
    for share in (0.95, 0.8, 0.6, 0.31):  # 576 of 2,496 MACs are within, 1,728 in all
        limits = {"macs": int(share * plain)}
        problem = menu.problem(items, lambda item, _: harms[item.branch.name], limits)
        choice = solve(problem)
        dropped = menu.configuration(items, choice).dropped
        found.append((names(dropped), pytest.approx(problem.harm(choice))))
    return harms, found


def test_of_branches_within_one_another_the_outer_one_may_be_the_milder():
    harms, found = nested(0.0, 0.3, 0.1)
    assert harms == pytest.approx({"0": 0.1, "0.two": 0.3})
    assert found == [(["0"], 0.1)] * 4


def test_a_branch_has_the_harm_of_those_within_it_that_went_before():
    harms, found = nested(0.0, 0.2, 1.05)
    assert harms == pytest.approx({"0.two": 0.2, "0": 1.05})
    assert found == [(["0.two"], 0.2)] * 2 + [(["0"], 1.05)] * 2


def test_no_branch_within_another_is_free_and_none_counts_what_was_there_before():
    assert nested(0.0, 0.0, 0.0)[0]["0.two"] > 0
    assert nested(0.1, 0.3, 0.2)[0] == pytest.approx({"0": 0.1, "0.two": 0.2})


def test_what_says_nothing_goes_first_and_harms_are_those_of_the_whole_network(view):
    branches = droppable(view)
    weights = WeightMath(view.model, view.graph, {})
    whole = WholeHarm(view, weights, 32, "")
    harms = drop_harms(branches, cost_by(Pricer(view.model, view.graph)), whole)
    assert next(iter(harms)) == "blocks.1"
    assert harms["blocks.1"] < harms["blocks.0"] / 10
    network = weights.built(Configuration(dropped=branches))
    refresh_statistics(network, [(images,) for images, _ in view.data.calibration])
    with torch.no_grad():
        distances = [
            float(view.task.distance(network(images), view.model(images)))
            for images, _ in view.data.calibration
        ]
    added = sum(distances) / len(distances) - whole(Configuration())
    assert added * 0.999 <= sum(harms.values()) <= added * 1.5
    assert harms["blocks.1"] == pytest.approx(
        whole(Configuration(dropped=branches[1:2])) - whole(Configuration()), abs=1e-6
    )


class Twins(nn.Module):
    """Two branches in one module."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.three, self.four = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        x = x + self.two(F.relu(self.one(x)))
        return x + self.four(F.relu(self.three(x)))


def test_branches_of_one_module_have_names_of_their_own():
    model = nn.Sequential(Twins(), nn.Flatten(), nn.Linear(192, 4))
    found = residual_branches(model, IMAGE)
    assert names(found) == ["0.two", "0.four"]
    assert [branch.layers for branch in found] == [("0.one", "0.two"), ("0.three", "0.four")]


class PerOperator:
    """A runtime in which an operator takes a millisecond, however small it is."""

    def nanoseconds(self, layer, input_shape):
        return 1_000_000 * len(operations_of(layer, (torch.empty(1, *input_shape, device="meta"),)))

    def milliseconds(self, network, original):
        return tuple(float(len(operations_of(one, IMAGE))) for one in (network, original))


def test_where_operators_are_what_takes_time_the_branch_that_harms_least_goes(view):
    settings = HmcSettings(
        images=32, statistics_images=32, fractions=(0.5,), rounds=1, compare=False
    )
    timed = replace(view, clock=PerOperator())
    proposal = Hmc(settings).plan(timed, Budget.parse("latency=0.8"))
    assert proposal.plan.decisions == (droppable(view)[1].decision,)
    assert proposal.evidence["dropped"] == {"blocks.1": list(droppable(view)[1].layers)}
    assert proposal.labels["blocks.1.conv1"] == "drop"
    rows = proposal.evidence["branches"]
    assert [row["dropped"] for row in rows] == [True, False, False]
    assert rows[0]["name"] == "blocks.1"
    assert rows[0]["layers"] == list(droppable(view)[1].layers)
    assert rows[0]["saves"] == {"params": 2 * (9 * 16 + 2) * 16, "macs": 294_912, "ms": 2.0}
    assert 0 < rows[0]["harm"] < rows[1]["harm"] / 10
    assert proposal.evidence["latency"]["attempts"][-1]["measured_ms"] == 6
    network = applied(view.model, proposal)
    assert capture(network, IMAGE).cost == replace(proposal.predicted, nanoseconds=0)


def test_what_a_limit_on_latency_lets_go_is_within_reach_of_another_limit(view):
    """Both in one budget: the counts that are reachable are those without the branches."""
    least = Hmc(HmcSettings(depth="yes")).smallest(view).macs
    assert least < Hmc().smallest(view).macs

    def check(text, method):
        budget = Budget.parse(text)
        feasibility([method], budget, view.graph.cost, reach([method], budget, view)).check()

    check(f"macs={least / 1000}k,latency=0.5", Hmc())
    check(f"macs={least / 1000}k", Hmc(HmcSettings(depth="yes")))
    with pytest.raises(BudgetError, match="the smallest that hmc can reach"):
        check(f"macs={least / 1000}k", Hmc())


def test_only_what_is_held_to_the_latency_may_drop_branches(view):
    """Neither the first of two stages nor the first of two iterations knows of the limit."""
    view, pruning = replace(view, round_to=8), HmcSettings(variant="prune_only")
    method = Hmc(pruning)
    with_branches, without = (
        Hmc(replace(pruning, depth=depth)).smallest(view) for depth in ("yes", "no")
    )
    budget = Budget.parse(f"macs={with_branches.macs / 1000}k,latency=0.5")
    least = reach([method, method], budget, view)
    assert (least(0), least(1)) == (without, with_branches)
    steps = steps_of([Iterated(method, 2)], budget, view.graph.cost, 5)
    assert ["latency" in one.facing(steps, view).limited for one in steps] == [False, True]
    with pytest.raises(BudgetError, match=rf"iteration 1 of 2: .* reach is {without.macs:,}"):
        check_first(steps, view, with_branches)


class Rows(nn.Module):
    """Branches that are called like units: of two layers each, two in one module."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 4)
        self.a1, self.a2, self.b1, self.b2 = (nn.Conv2d(16, 16, 1) for _ in range(4))

    def forward(self, x):
        x = self.stem(x)
        x = x + self.a2(F.relu(self.a1(x)))
        x = x + self.b2(F.relu(self.b1(x)))
        return self.head(x.mean((2, 3)))


def test_a_branch_with_the_name_of_a_unit_is_no_unit(view):
    torch.manual_seed(0)
    model = Rows().eval()
    rows = replace(view, model=model, graph=capture(model, IMAGE), ignore=frozenset({"stem"}))
    units = units_of(rows.graph, rows.ignore)
    branches = droppable(rows)
    assert {branch.name for branch in branches} <= {unit.name for unit in units}
    menu = menu_of(units, {}, Pricer(model, rows.graph), ("channel_svd",), 1, EQUAL)
    menu = replace(menu, branches=branches)
    labels = dict.fromkeys((unit.name for unit in units), DECOMPOSE)
    items = menu.items(labels)
    choice = tuple(int(item.branch is not None) for item in items)
    solution = Solution(labels, labels, {}, (0.0, 0.0), items, choice, 0.0)
    assert set(solution.groups.values()) == {KEEP}
    fractions = {unit.name: (0.5,) for unit in units}
    assert solved_fractions(menu, solution, fractions) == fractions


def test_without_drops_such_a_limit_is_out_of_reach(view):
    settings = HmcSettings(
        images=32, statistics_images=32, fractions=(0.5,), rounds=1, compare=False, depth="no"
    )
    with pytest.raises(BudgetError, match="smallest on its menu has 8 ms in its layers"):
        Hmc(settings).plan(replace(view, clock=PerOperator()), Budget.parse("latency=0.8"))


def test_branches_make_smaller_networks_reachable(view):
    assert (
        Hmc(HmcSettings(depth="yes")).smallest(view).macs
        < Hmc(HmcSettings(depth="auto")).smallest(view).macs
    )


def test_only_known_answers_are_taken():
    with pytest.raises(RecipeError, match="depth='maybe': expected one of auto, yes, no"):
        HmcSettings(depth="maybe")


def test_a_branch_stands_for_its_decision():
    branch = Branch("b", ("b.one", "b.two"))
    assert branch.decision == DropResidual(("b.one",), "b.two")
