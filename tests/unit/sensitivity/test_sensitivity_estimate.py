import pytest
import torch

from lissom.graph.capture import capture
from lissom.methods.weights import plain_layers
from lissom.sensitivity.agreement import rank_correlation
from lissom.sensitivity.candidate import Candidate, Harms
from lissom.sensitivity.curvature import curvatures
from lissom.sensitivity.estimate import FirstOrder, SecondOrder
from lissom.sensitivity.measure import Measured
from lissom.sensitivity.statistics import loss_gradients
from lissom.task import Classification
from method_samples import Small, batches_of, seeded

SHAPE = (3, 8, 8)
BATCHES = batches_of(*SHAPE, count=4)


@pytest.fixture(scope="module")
def model():
    return seeded(Small)


@pytest.fixture(scope="module")
def measured(model):
    return Measured(model, BATCHES, Classification(), 64)


@pytest.fixture(scope="module")
def second(model, measured):
    layers = plain_layers(model, capture(model, (torch.zeros(1, *SHAPE),)))
    found = curvatures(model, layers, BATCHES, Classification(), 64)
    return SecondOrder(model, found, 64, measured)


def changed(model, name: str, size: float, seed: int = 0) -> Candidate:
    weight = model.get_parameter(name).detach()
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
    return Candidate(name, "prune", 0.5, {name: weight + size * weight.std() * noise})


def small_changes(model) -> list[Candidate]:
    return [
        changed(model, f"{name}.weight", size, seed)
        for name in ("stem", "a", "b", "c", "head")
        for seed, size in enumerate((0.01, 0.03, 0.1))
    ]


class Never:
    def harms(self, candidates):
        raise AssertionError(f"{len(candidates)} candidates are measured")


def test_second_order_ranks_as_the_measurement_without_running_the_network(model, measured, second):
    candidates = small_changes(model)
    found = SecondOrder(model, second.curvatures, 64, Never()).harms(candidates)
    real = measured.harms(candidates)
    assert rank_correlation(found.mean, real.mean) > 0.95
    ratios = [a / b for a, b in zip(found.mean, real.mean, strict=True)]
    assert 0.5 < sorted(ratios)[len(ratios) // 2] < 2  # no units are lost
    assert all(0 < error < mean for error, mean in zip(found.error, found.mean, strict=True))
    assert (found.images, found.forwards, found.forwards_run) == (64, 0, 0.0)


def test_changes_of_several_layers_add_up(model, second):
    one, other = changed(model, "a.weight", 0.1), changed(model, "b.weight", 0.1)
    both = Candidate("u", "prune", 0.5, {**one.overrides, **other.overrides})
    separate = second.harms([one, other]).mean
    assert second.harms([both]).mean[0] == pytest.approx(sum(separate))


def test_what_has_no_curvature_is_measured_in_its_place(model, measured, second):
    known, bias = changed(model, "a.weight", 0.1), changed(model, "a.bias", 1.0)
    other = seeded(Small, seed=3)
    rebuilt = Candidate("u", "prune", 0.5, dict(known.overrides), lambda: other)
    nothing = Candidate("v", "prune", 0.5, {})
    found = second.harms([rebuilt, known, bias, nothing])
    real = measured.harms([rebuilt, known, bias, nothing])
    assert [found.mean[i] for i in (0, 2, 3)] == pytest.approx([real.mean[i] for i in (0, 2, 3)])
    assert found.mean[1] == second.harms([known]).mean[0] != real.mean[1]
    assert found.forwards == 4 * (3 + 1)


def test_first_order_is_the_change_along_the_gradient(model, measured):
    gradients = loss_gradients(model, BATCHES, Classification(), 64)
    first = FirstOrder(model, gradients, 64, measured)
    candidates = [changed(model, "a.weight", 0.1), changed(model, "a.bias", 0.1)]
    found = first.harms(candidates)
    for candidate, harm in zip(candidates, found.mean, strict=True):
        ((name, new),) = candidate.overrides.items()
        step = (new - model.get_parameter(name)).detach()
        assert harm == pytest.approx(abs(float((gradients[name] * step).sum())), rel=1e-5)
    assert found.error == (0.0, 0.0)
    assert found.forwards == 0
    back = Candidate("u", "prune", 0.5, {"a.weight": 2 * model.a.weight.detach()})
    there = Candidate("u", "prune", 0.5, {"a.weight": 0 * model.a.weight.detach()})
    assert first.harms([back]).mean == pytest.approx(first.harms([there]).mean)


def test_first_order_measures_what_has_no_gradient(model, measured):
    first = FirstOrder(model, {}, 64, measured)
    one = [changed(model, "a.weight", 0.1)]
    assert first.harms(one).mean == measured.harms(one).mean
    assert first.harms([]) == Harms((), (), 64, 0, 0.0)
