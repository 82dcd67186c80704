from dataclasses import replace

import pytest
import torch
from torch import nn

from lissom.methods.hmc import Hmc, HmcSettings
from lissom.methods.weighing import Weighing
from lissom.plan.budget import Budget
from lissom.train.recalibrate import refresh_statistics
from method_samples import applied, small_view

HALF = Budget.parse("macs=0.5")
FAST = HmcSettings(images=32, statistics_images=32, fractions=(0.25, 0.75))


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    return small_view(cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def proposal(view):
    return Hmc(FAST).plan(view, HALF)


def distance(view, network):
    """Mean KL divergence over the calibration images, with statistics of these images."""
    images = torch.cat([x for x, _ in view.data.calibration])
    first = len(view.data.calibration[0][0])
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for part in images.split(first):
            network(part)
        network.eval()
        ours, theirs = (model(images).log_softmax(1) for model in (network, view.model))
    return float((theirs.exp() * (theirs - ours)).sum(1).mean())


def test_the_harm_is_that_of_the_whole_network(view, proposal):
    facts = proposal.evidence["weighing"]
    expected = distance(view, applied(view, proposal))
    assert facts["harm_measured"] == pytest.approx(expected, rel=1e-4)


def test_the_network_that_harms_least_of_all_that_were_tried_is_taken(proposal):
    facts = proposal.evidence["weighing"]
    best = min(facts["tried"], key=lambda one: one["measured"])
    assert facts["harm_measured"] == best["measured"]
    assert facts["prune_weight"] == best["prune_weight"]
    assert facts["tried"][0]["prune_weight"] == 1


def test_sums_alone_weigh_nothing(view):
    found = Hmc(replace(FAST, weigh="summed")).plan(view, HALF)
    assert "weighing" not in found.evidence


@pytest.mark.parametrize("variant", ["prune_only", "decompose_only"])
def test_one_family_alone_has_nothing_to_be_weighed_against(view, variant):
    found = Hmc(replace(FAST, variant=variant)).plan(view, HALF)
    assert {one["prune_weight"] for one in found.evidence["weighing"]["tried"]} == {1.0}


class Solver:
    """Finds, for each weight, a solution that is the weight itself."""

    def __init__(self, families=("prune", "decompose"), weight=1.0, asked=None):
        self.families, self.weight = families, weight
        self.asked = [] if asked is None else asked

    @property
    def menu(self):
        return self

    units = property(lambda self: [self])

    def configuration(self, items, choice):
        return items

    def weighing(self, weight):
        return Solver(self.families, weight, self.asked)

    def search(self, fractions, rounds):
        yield "at", Solution(self.weight)

    def at(self, fractions):
        self.asked.append((self.weight, fractions))
        return Solution(self.weight)


class Solution:
    def __init__(self, weight):
        self.items, self.choice, self.harm = weight, None, 0.0


@pytest.mark.parametrize(
    ("harm", "best", "tried"),
    [
        (lambda w: abs(w - 8), 8, [1, 4, 16, 8, 2]),
        (lambda w: abs(w - 1), 1, [1, 4, 0.25, 2, 0.5]),
        (lambda w: w, 0.25**4, [1, 4, 0.25, 0.25**2, 0.25**3, 0.25**4, 0.5**7, 0.5**9]),
        (lambda w: 3.0, 1, [1, 4, 0.25, 2, 0.5]),
    ],
)
def test_weights_are_tried_while_they_help(harm, best, tried):
    weighing = Weighing(harm, (0.5,), 2)
    _, solution = weighing.weighed(Solver())
    assert [one.prune_weight for one in weighing.tried] == tried
    assert solution.items == weighing.best.prune_weight
    if best in tried and best != 0.25**4:
        assert solution.items == best


def test_a_second_search_keeps_what_the_first_has_found():
    weighing, solver = Weighing(lambda w: abs(w - 8), (0.5,), 2), Solver()
    weighing.weighed(solver)
    count = len(weighing.tried)
    weighed, solution = weighing.weighed(solver)
    assert (weighed.weight, solution.items) == (8, 8)
    assert solver.asked == [(8, "at")]
    assert len(weighing.tried) == count


def test_fresh_statistics_are_those_of_the_images():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3)).eval()
    images = torch.randn(64, 3, 5, 5) * 2 + 1
    refresh_statistics(model, [(images[:32], None), (images[32:], None)], Images(), 64)
    assert torch.allclose(model[0].running_mean, images.mean((0, 2, 3)), atol=1e-5)
    assert not model.training
    plain = nn.Sequential(nn.Linear(2, 2)).eval()
    refresh_statistics(plain, [], Images(), 64)


class Images:
    def inputs(self, batch):
        return (batch[0],)
