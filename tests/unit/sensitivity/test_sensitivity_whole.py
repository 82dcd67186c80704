"""Whole networks against one original."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from lissom.errors import ModelError
from lissom.sensitivity import whole
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
    network = Candidate("the network", "all", 0.0, {}, lambda: other(0.5), "b")
    assert found == pytest.approx(measured.harms([network]).mean[0], rel=1e-6)
    assert found > 0.01


def test_the_original_runs_once_for_all(measured, runs):
    networks = WholeNetworks(measured)
    networks.harm("a", lambda: other(0.5))
    first = len(runs)
    harms = [networks.harm(name, lambda: other(1.0)) for name in "bcd"]
    assert len(runs) == first
    assert harms[0] == harms[1] == harms[2]


def test_large_outputs_of_the_original_are_not_kept(measured, runs, monkeypatch):
    expected = WholeNetworks(measured).harm("a", lambda: other(0.5))
    size = 64 * 3 * 4  # of one piece
    for room, again in ((size - 1, 2), (size, 1), (2 * size, 0)):
        monkeypatch.setattr(whole, "_MOST_KEPT", room)
        networks = WholeNetworks(replace(measured, cache=None))
        assert networks.harm("a", lambda: other(0.5)) == expected
        before = len(runs)
        networks.harm("b", lambda: other(1.0))
        assert len(runs) - before == again


class Shifting(nn.Module):
    """Writes into its input."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        x -= 0.5
        return self.layer(x.div_(0.25))


def test_a_network_that_writes_into_its_input_finds_it_unchanged(tmp_path):
    torch.manual_seed(0)
    model, image = Shifting().eval(), torch.randn(64, 4)
    batches = [(image, torch.zeros(64, dtype=torch.long))]
    networks = WholeNetworks(Measured(model, batches, Classification(), 64, tmp_path))
    before = image.clone()
    assert [networks.harm(name, lambda: model) for name in "abc"] == pytest.approx([0, 0, 0])
    rebuilt = Candidate("the network", "all", 0.0, {}, lambda: model, "d")
    assert networks.measured.harms([rebuilt, rebuilt]).mean == pytest.approx((0, 0))
    assert torch.equal(image, before)


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
