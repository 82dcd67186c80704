from dataclasses import replace

import pytest
import torch
from torch import nn

from lissom.methods.hmc import Hmc, HmcSettings
from lissom.methods.sensitivities import HarmWeights
from lissom.methods.weighing import Weighing, WholeHarm
from lissom.plan.budget import Budget
from lissom.search.price import Configuration
from lissom.train.recalibrate import refresh_statistics
from method_samples import applied, batches_of, seeded, small_view, view_of

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
    first = facts["tried"][0]
    assert first["prune_weight"] == 1
    assert facts["harm_measured"] < 0.8 * first["measured"]  # else this would tell nothing
    assert first["summed"] < best["summed"]  # the sums would have it otherwise


def test_sums_alone_weigh_nothing(view):
    found = Hmc(replace(FAST, weigh="summed")).plan(view, HALF)
    assert "weighing" not in found.evidence


@pytest.mark.parametrize("variant", ["prune_only", "decompose_only"])
def test_one_family_alone_has_nothing_to_be_weighed_against(view, variant):
    found = Hmc(replace(FAST, variant=variant)).plan(view, HALF)
    assert {one["prune_weight"] for one in found.evidence["weighing"]["tried"]} == {1.0}


class Solver:
    """Finds, for given weights, a solution that is the weights themselves."""

    def __init__(self, families=("prune", "decompose"), branches=(), weights=None, asked=None):
        self.families, self.branches = families, branches
        self.weights, self.asked = weights, [] if asked is None else asked

    @property
    def menu(self):
        return self

    units = property(lambda self: [self])

    def configuration(self, items, choice):
        return items

    def weighing(self, weights):
        return Solver(self.families, self.branches, weights, self.asked)

    def search(self, fractions, rounds):
        yield "at", Solution(self.weights)

    def harm(self, solution):
        return 0.0

    def at(self, fractions):
        self.asked.append((self.weights, fractions))
        return Solution(self.weights)


class Solution:
    def __init__(self, weights):
        self.items, self.choice, self.harm = weights, None, 0.0


LADDER = [1, 4, 16, 64, 256, 0.25, 0.0625]


@pytest.mark.parametrize(
    ("harm", "around", "best"),
    [
        (lambda w: abs(w - 8), 4, 8),
        (lambda w: abs(w - 1), 1, 1),
        (lambda w: 3.0 - (w == 256), 256, 256),
        (lambda w: w, 0.0625, 0.03125),
        (lambda w: 3.0, 1, 1),
    ],
)
def test_weights_are_tried_and_the_best_is_taken(harm, around, best):
    weighing = Weighing(lambda weights: harm(weights.prune), (0.5,), 2)
    weighed, solution = weighing.weighed(Solver())
    tried = [one.weights for one in weighing.tried]
    assert tried == [HarmWeights(prune) for prune in (*LADDER, 2 * around, around / 2)]
    assert weighing.best.weights == solution.items == weighed.weights == HarmWeights(best)


def test_dropping_branches_is_weighed_at_the_weight_of_pruning_that_was_found():
    weighing = Weighing(lambda w: abs(w.prune - 8) + abs(w.drop - 32), (0.5,), 2)
    # Of 4 and 16 the first is as near to 8.
    weighed, solution = weighing.weighed(Solver(branches=("one",)))
    tried = [one.weights for one in weighing.tried]
    assert tried[:7] == [HarmWeights(prune) for prune in LADDER]
    assert tried[7:15] == [HarmWeights(4, drop) for drop in (*LADDER[1:], 32, 8)]
    assert tried[15:] == [HarmWeights(8, 32), HarmWeights(2, 32)]
    assert weighing.best.weights == solution.items == weighed.weights == HarmWeights(8, 32)
    assert weighing.summary(solution.items) == (
        "harm of the whole network: 0; pruning weighs 8, dropping 32 (weighing 1, 38)"
    )
    facts = weighing.facts(solution.items)
    assert (facts["prune_weight"], facts["drop_weight"]) == (8, 32)
    assert facts["tried"][-1]["drop_weight"] == 32


def test_where_there_is_one_family_dropping_alone_is_weighed():
    weighing = Weighing(lambda w: abs(w.drop - 4), (0.5,), 2)
    weighing.weighed(Solver(families=("prune",), branches=("one",)))
    assert [one.weights.drop for one in weighing.tried] == [*LADDER, 8, 2]
    assert {one.weights.prune for one in weighing.tried} == {1.0}


def test_the_same_network_is_measured_once(view, monkeypatch):
    built = []
    weights = Hmc(FAST)._statistics(view)
    whole = WholeHarm(replace(view, cache=None), weights, 32, "")
    original = type(weights).built
    monkeypatch.setattr(
        type(weights), "built", lambda own, what: built.append(what) or original(own, what)
    )
    harms = [whole(Configuration()) for _ in range(3)]
    assert (len(built), len(set(harms))) == (1, 1)
    assert harms[0] < 0.1  # nothing but other statistics


def test_all_networks_are_judged_on_the_same_images():
    batches = Shuffled(batches_of(3, 8, 8, count=6, size=8))
    view = small_view(batches=batches)
    whole = WholeHarm(view, Hmc(FAST)._statistics(view), 16, "")
    before = batches.passes
    first, second = whole(Configuration()), whole(Configuration({"a": tuple(range(8))}))
    assert batches.passes == before
    assert first < second


class Shuffled:
    """Gives its batches in another order at each pass."""

    def __init__(self, batches):
        self.batches, self.passes = batches, 0

    def __iter__(self):
        self.passes += 1
        return iter(self.batches[self.passes % 6 :] + self.batches[: self.passes % 6])


class Pooled(nn.Module):
    """A batch norm that sees one value per channel and image."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(16), nn.Linear(16, 4)

    def forward(self, x):
        x = torch.relu(self.b(torch.relu(self.a(x)))).mean((2, 3), keepdim=True)
        return self.head(torch.relu(self.norm(x)).flatten(1))


@pytest.mark.parametrize("count", [1, 16])
def test_batches_of_one_image_will_do(count):
    batches = batches_of(3, 8, 8, count=count, size=1)
    view = view_of(seeded(Pooled), 3, 8, 8, batches=batches)
    found = Hmc(FAST).plan(view, HALF)
    assert found.evidence["weighing"]["harm_measured"] >= 0


def test_nothing_to_choose_from_is_no_error(view):
    everything = frozenset(layer.name for layer in view.graph.layers)
    for weigh in ("measured", "summed"):
        method = Hmc(replace(FAST, weigh=weigh))
        found = method.plan(replace(view, ignore=everything), Budget.parse("macs=1G"))
        assert not found.plan.decisions


def test_a_second_search_keeps_what_the_first_has_found():
    weighing, solver = Weighing(lambda w: abs(w.prune - 8), (0.5,), 2), Solver()
    weighing.weighed(solver)
    count = len(weighing.tried)
    weighed, solution = weighing.weighed(solver)
    assert weighed.weights == solution.items == HarmWeights(8)
    assert solver.asked == [(HarmWeights(8), "at")]
    assert len(weighing.tried) == count


def test_fresh_statistics_are_those_of_the_images():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3)).eval()
    images = torch.randn(64, 3, 5, 5) * 2 + 1
    refresh_statistics(model, [(images[:32],), (images[32:],)])
    assert torch.allclose(model[0].running_mean, images.mean((0, 2, 3)), atol=1e-5)
    assert not model.training
    plain = nn.Sequential(nn.Linear(2, 2)).eval()
    refresh_statistics(plain, [])
    refresh_statistics(model, [(images[:1],)])
    assert torch.allclose(model[0].running_mean, images.mean((0, 2, 3)), atol=1e-5)
