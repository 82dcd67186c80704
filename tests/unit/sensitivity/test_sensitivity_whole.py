"""Whole networks against one original."""

import copy
import math

import pytest
import torch
from torch import nn

from lissom.errors import ModelError
from lissom.sensitivity.candidate import Candidate
from lissom.sensitivity.measure import Measured
from lissom.sensitivity.whole import WholeNetworks
from lissom.task import Classification

IMAGES = 128  # two pieces


class Counting(nn.Module):
    """Counts its runs, those of its copies too."""

    def __init__(self, runs):
        super().__init__()
        self.layer, self.runs = nn.Linear(4, 3), runs

    def __deepcopy__(self, memo):
        other = Counting(self.runs)
        other.load_state_dict(self.state_dict())
        return other.eval()

    def forward(self, x):
        self.runs.append(len(x))
        return self.layer(x)


@pytest.fixture
def runs():
    return []


@pytest.fixture
def measured(runs, tmp_path):
    torch.manual_seed(0)
    batches = [(torch.randn(64, 4), torch.zeros(64, dtype=torch.long)) for _ in range(2)]
    return Measured(Counting(runs).eval(), batches, Classification(), IMAGES, tmp_path)


def other(scale):
    torch.manual_seed(1)
    model = nn.Linear(4, 3)
    nn.init.constant_(model.weight, scale)
    return model.eval()


def test_the_harm_is_that_of_the_batches_together(measured):
    found = WholeNetworks(measured).harm("a", lambda: other(0.5))
    whole = Candidate("the network", "all", 0.0, {}, lambda: other(0.5), "b")
    assert found == pytest.approx(measured.harms([whole]).mean[0], rel=1e-6)
    assert found > 0.01


def test_the_original_runs_once_for_all(measured, runs):
    networks = WholeNetworks(measured)
    networks.harm("a", lambda: other(0.5))
    first = len(runs)
    harms = [networks.harm(name, lambda: other(1.0)) for name in "bcd"]
    assert len(runs) == first
    assert harms[0] == harms[1] == harms[2]


def test_what_is_in_the_cache_is_not_built_again(measured):
    found = WholeNetworks(measured).harm("a", lambda: other(0.5))

    def never():
        raise AssertionError

    assert WholeNetworks(measured).harm("a", never) == found


def test_another_original_is_another_cache(measured):
    found = WholeNetworks(measured).harm("a", lambda: other(0.5))
    changed = copy.deepcopy(measured.model)
    nn.init.zeros_(changed.layer.weight)
    again = Measured(changed, measured.batches, measured.task, IMAGES, measured.cache)
    assert WholeNetworks(again).harm("a", lambda: other(0.5)) != found


def test_a_network_without_finite_outputs_is_an_error_and_not_remembered(measured):
    with pytest.raises(ModelError, match=r"the network: .* expected a finite number"):
        WholeNetworks(measured).harm("a", lambda: other(math.nan))
    assert WholeNetworks(measured).harm("a", lambda: other(0.5)) > 0
