"""Columns: their strengths, the gauge with an optimizer, and how they vanish."""

import copy

import pytest
import torch
from torch import nn

from lissom.extension import StepState
from lissom.lowrank.metric import metric_for
from lissom.relaxation.block import product, put_block, spatial_factors, whitened_factors
from lissom.relaxation.columns import Columns, as_cube
from lissom.relaxation.rank_and_channels import RankAndChannels
from lissom.relaxation.settings import RelaxationSettings
from method_samples import seeded
from relaxation_samples import SHAPE, Residual, graph_of


def columns_of(conv=None, covariance=None, scales=None, form="whitened"):
    torch.manual_seed(0)
    conv = conv or nn.Conv2d(4, 6, 3, padding=1, bias=False)
    network = nn.Sequential(conv)
    factors = whitened_factors(conv.weight, covariance)
    block = put_block(network, "0")
    block.fill(factors)
    metric = metric_for(as_cube(block.basis.detach()), covariance) if form == "whitened" else None
    return network, Columns("0", block, metric, scales)


def test_strengths_are_shares_of_the_output() -> None:
    torch.manual_seed(3)
    samples = torch.randn(500, 36) @ torch.randn(36, 36)
    covariance = samples.T @ samples / 500
    _, columns = columns_of(covariance=covariance)
    strengths = columns.strengths()
    assert float(strengths.square().sum()) == pytest.approx(1.0, rel=1e-5)
    block = columns.block
    inner = samples @ block.basis.detach().flatten(1).T  # (500, r): what the weight layer puts out
    energies = inner.square().mean(0) * block.coefficients.detach().flatten(1).square().sum(0)
    torch.testing.assert_close(strengths.square(), energies / energies.sum(), rtol=1e-2, atol=1e-6)


def test_outputs_that_a_norm_turns_up_count_for_more() -> None:
    scales = torch.tensor([10.0, 1, 1, 1, 1, 1])
    _, plain = columns_of()
    _, scaled = columns_of(scales=scales)
    rows = plain.block.coefficients.detach().flatten(1)
    expected = (rows * scales[:, None]).norm(dim=0)
    torch.testing.assert_close(scaled.strengths(), expected / expected.norm(), rtol=1e-4, atol=1e-6)


def test_norms_without_any_scale_yet_weigh_all_outputs_alike() -> None:
    _, columns = columns_of(scales=torch.zeros(6))
    _, plain = columns_of()
    torch.testing.assert_close(columns.strengths(), plain.strengths())


def test_a_step_after_the_gauge_goes_the_same_way() -> None:
    """With momentum alone (no gradient) the product moves as it would have without the gauge."""
    moved = []
    for gauge in (False, True):
        _, columns = columns_of()
        block = columns.block
        optimizer = torch.optim.SGD(block.parameters(), lr=1e-3, momentum=0.9)
        block(torch.ones(2, 4, 5, 5)).square().mean().backward()
        optimizer.step()
        if gauge:
            columns.fix_gauge(optimizer)
        optimizer.zero_grad(set_to_none=False)
        optimizer.step()
        with torch.no_grad():
            moved.append(block(torch.ones(2, 4, 5, 5)))
    torch.testing.assert_close(moved[1], moved[0], rtol=1e-5, atol=1e-6)


def test_one_step_of_the_gauge_stretches_by_two_at_most() -> None:
    _, columns = columns_of()
    column = columns.block.coefficients.data[:, 0]
    column *= 1e-6
    before = float(column.norm())
    columns.fix_gauge(None)
    assert float(column.norm()) == pytest.approx(2 * before, rel=1e-5)


def test_a_column_that_has_vanished_stays_so() -> None:
    _, columns = columns_of()
    columns.keep(torch.arange(6) != 2)
    basis = columns.block.basis[2].clone()
    for _ in range(5):
        columns.fix_gauge(None)
    assert not columns.block.coefficients[:, 2].any()
    assert torch.equal(columns.block.basis[2], basis)
    assert (columns.strengths() == 0).tolist() == [False, False, True, False, False, False]


def test_the_plain_form_leaves_the_gauge_alone() -> None:
    _, columns = columns_of(form="plain")
    before = columns.block.coefficients.detach().clone()
    columns.fix_gauge(None)
    assert torch.equal(columns.block.coefficients, before)
    norms = before.flatten(1).norm(dim=0)
    torch.testing.assert_close(columns.strengths(), norms / norms.norm())


@pytest.mark.parametrize("power", [1, 2])
def test_shrinking_takes_strength_and_nothing_else(power) -> None:
    _, columns = columns_of()
    block = columns.block
    before, basis = columns.strengths(), block.basis.detach().clone()
    directions = nn.functional.normalize(block.coefficients.detach().flatten(1), dim=0)
    amount = torch.tensor(0.5 * float(before.min()) ** power)
    columns.shrink(amount, power)
    expected = before - amount / before ** (power - 1)
    torch.testing.assert_close(columns.strengths(), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(block.basis, basis)
    after = nn.functional.normalize(block.coefficients.detach().flatten(1), dim=0)
    torch.testing.assert_close(after, directions)


def test_pressed_hard_enough_all_vanish_exactly() -> None:
    network, columns = columns_of()
    columns.shrink(torch.tensor(10.0), 2)
    assert not columns.strengths().any()
    assert not network(torch.randn(1, 4, 5, 5)).any()


def _patches(count: int = 400) -> torch.Tensor:
    """Give correlated patches (count, 4 * 9)."""
    torch.manual_seed(3)
    return torch.randn(count, 36) @ torch.randn(36, 36)


def _spatial(covariance: torch.Tensor) -> Columns:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, bias=False)
    network = nn.Sequential(conv)
    factors = spatial_factors(conv.weight, covariance)
    block = put_block(network, "0", "spatial")
    block.fill(factors)
    return Columns("0", block, metric_for(as_cube(conv.weight), covariance), None)


def test_strengths_of_a_spatial_split_are_shares_of_what_each_column_puts_out() -> None:
    patches = _patches()
    columns = _spatial(patches.T @ patches / len(patches))
    basis, rows = columns.block.basis.detach(), columns.block.coefficients.detach()
    energies = []
    for j in range(columns.block.rank):
        dense = product(basis[j : j + 1], rows[:, j : j + 1]).flatten(1)
        energies.append(float((patches @ dense.T).square().sum(dim=1).mean()))
    wanted = torch.tensor(energies) / sum(energies)
    torch.testing.assert_close(columns.strengths().square(), wanted, rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("split", ["channel", "spatial"])
def test_what_stays_takes_over_what_goes(split: str) -> None:
    patches = _patches()
    covariance = patches.T @ patches / len(patches)
    columns = _spatial(covariance) if split == "spatial" else columns_of(covariance=covariance)[1]
    block = columns.block
    weight = product(block.basis, block.coefficients).detach()
    mask = torch.zeros(block.rank, dtype=torch.bool)
    mask[[1, 2, 4]] = True

    def error() -> float:
        change = product(block.basis, block.coefficients).detach() - weight
        return float((patches @ change.flatten(1).T).square().sum())

    optimizer = torch.optim.SGD(block.parameters(), lr=0.0, momentum=0.9)
    block(torch.ones(2, 4, 5, 5)).square().mean().backward()
    optimizer.step()
    kept = copy.deepcopy(columns)
    kept.keep(mask)
    dropped = product(kept.block.basis, kept.block.coefficients).detach() - weight
    columns.refit(mask, covariance, optimizer)
    assert error() < 0.9 * float((patches @ dropped.flatten(1).T).square().sum())
    assert not block.coefficients[:, ~mask].any()
    assert not any(
        optimizer.state[p]["momentum_buffer"].any() for p in block.parameters() if p.dim() > 1
    )
    assert torch.equal(columns.strengths() > 0, mask)


def test_with_all_columns_nothing_is_fitted() -> None:
    _, columns = columns_of()
    before = columns.block.basis.detach().clone()
    columns.refit(torch.ones(columns.block.rank, dtype=torch.bool), torch.eye(36), None)
    assert torch.equal(columns.block.basis, before)


@pytest.mark.parametrize("split", ["channel", "spatial"])
def test_a_network_in_double_precision_is_relaxed_in_it(split) -> None:
    found = []
    for kind in (torch.float32, torch.float64):
        model, example = seeded(Residual).to(kind), (torch.zeros(1, *SHAPE, dtype=kind),)
        settings = RelaxationSettings(split=split)
        relaxation = RankAndChannels(model, graph_of(Residual), example, settings)
        relaxation.relax(copy.deepcopy(model))
        relaxation.after_step(StepState(0.1, 0, 10, None))
        found.append(relaxation.strengths())
    for key, strengths in found[1].items():
        assert strengths.dtype == torch.float64
        torch.testing.assert_close(strengths.float(), found[0][key])
