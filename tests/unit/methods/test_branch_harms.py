"""Residual branches on HMC's menu."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lissom.errors import BudgetError, RecipeError
from lissom.extension import ModelView
from lissom.graph.branches import Branch
from lissom.graph.capture import capture
from lissom.measure.operation import operations_of
from lissom.methods.branch_harms import drop_harms, droppable
from lissom.methods.estimators import estimator_of
from lissom.methods.hmc import Hmc, HmcSettings
from lissom.methods.weights import WeightMath
from lissom.pipeline.apply import applied
from lissom.plan.budget import Budget
from lissom.plan.drop_residual import DropResidual
from lissom.search.price import Configuration, LowRank, Pricer
from lissom.task import Classification, Data
from lissom.train.processes import Processes

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


@pytest.mark.parametrize("estimator", ["measured", "second_order"])
def test_what_says_nothing_can_go(view, estimator):
    pricer = Pricer(view.model, view.graph)
    told = estimator_of(estimator, view, 32, Processes())
    harms = drop_harms(view.model, droppable(view), pricer, told)
    assert min(harms, key=harms.__getitem__) == "blocks.1"
    assert harms["blocks.1"] < harms["blocks.0"] / 10
    assert drop_harms(view.model, (), pricer, told) == {}


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
    assert proposal.evidence["latency"]["attempts"][-1]["measured_ms"] == 6
    network = applied(view.model, proposal)
    assert capture(network, IMAGE).cost == replace(proposal.predicted, nanoseconds=0)


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
