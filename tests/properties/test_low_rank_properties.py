"""What low rank promises beside what every family does: energies add up, more rank is better."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies_convolutions import convolutions, covariance, seeds
from torch import Tensor

from lissom.lowrank.factorize import channel_svd, compose_svd, compose_tucker2, tucker2
from lissom.plan.build import build
from lissom.plan.low_rank import Tucker2
from lissom.plan.plan import Plan

COMMON = settings(max_examples=40, deadline=None)


@COMMON
@given(convolutions())
def test_building_leaves_the_input_network_alone(case) -> None:
    network = case.network
    before = copy.deepcopy(network.state_dict())
    random = torch.get_rng_state()
    build(network, Plan((Tucker2("0", 1, 1),)))
    after = network.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(random, torch.get_rng_state())


@COMMON
@given(convolutions(), st.data())
def test_energy_identity(case, data) -> None:
    weight = case.conv.weight.detach()
    rank_out = data.draw(st.integers(1, weight.shape[0]))
    rank_in = data.draw(st.integers(1, weight.shape[1]))
    last, core, first = tucker2(weight, rank_out, rank_in)
    error = float((weight - compose_tucker2(last, core, first)).square().sum())
    energy = float(weight.square().sum())
    assert error == pytest.approx(energy - float(core.square().sum()), abs=1e-10 * (1 + energy))


@COMMON
@given(seeds(), st.integers(2, 6), st.integers(2, 6), st.booleans())
def test_more_rank_never_raises_the_error(seed, outputs, inputs, whiten) -> None:
    torch.manual_seed(seed)
    weight = torch.randn(outputs, inputs, 2, 3, dtype=torch.float64)
    matrix = covariance(inputs * 6, inputs * 12, seed) if whiten else None
    metric = torch.eye(inputs * 6, dtype=torch.float64) if matrix is None else matrix

    def error(approximation: Tensor) -> float:
        change = (weight - approximation).flatten(1)
        return float((change @ metric * change).sum())

    svd = [
        error(compose_svd(*channel_svd(weight, r, covariance=matrix)))
        for r in range(1, outputs + 1)
    ]
    # Over the output rank alone, where the closed form is optimal for given inputs at full rank_in.
    tucker = [
        error(compose_tucker2(*tucker2(weight, r, inputs, covariance=matrix)))
        for r in range(1, outputs + 1)
    ]
    for errors in (svd, tucker):
        # The damping of 1e-4 may cost that much of the energy.
        slack = 1e-3 * error(torch.zeros_like(weight))
        assert all(more <= less + slack for less, more in pairwise(errors))
