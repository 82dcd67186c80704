"""Proximal steps and the gauge, as pure functions."""

import pytest
import torch
from torch import nn

from lissom.relaxation.shrink import left_after, rescale, shrink_factors

STRENGTHS = torch.tensor([0.0, 0.1, 0.5, 1.0, 3.0], dtype=torch.float64)


def test_power_1_is_the_proximal_step_of_the_group_lasso() -> None:
    """argmin_y 1/2 ||y - x||^2 + amount ||y||, found by a search over multiples of x."""
    amount = torch.tensor(0.4, dtype=torch.float64)
    factors = shrink_factors(STRENGTHS, amount, 1)
    grid = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    for strength, factor in zip(STRENGTHS[1:], factors[1:], strict=True):
        objective = 0.5 * ((grid - 1) * strength).square() + amount * grid * strength
        assert factor == pytest.approx(float(grid[objective.argmin()]), abs=1e-4)


def test_power_2_takes_the_same_energy_from_all() -> None:
    amount = torch.tensor(1e-4, dtype=torch.float64)
    left = STRENGTHS * shrink_factors(STRENGTHS, amount, 2)
    lost = STRENGTHS.square() - left.square()
    # A step of size a takes 2 a, but for its square.
    torch.testing.assert_close(lost[1:], torch.full((4,), 2e-4).double(), rtol=6e-3, atol=0)


def test_amounts_go_with_costs() -> None:
    costs = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    strengths = torch.full((3,), 2.0, dtype=torch.float64)
    left = strengths * shrink_factors(strengths, 1e-4 * costs, 2)
    lost = strengths.square() - left.square()
    torch.testing.assert_close(lost / costs, torch.full((3,), 2e-4).double(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("power", [1, 2])
def test_nothing_turns_around_and_what_is_gone_stays_gone(power) -> None:
    factors = shrink_factors(STRENGTHS, torch.tensor(0.5), power)
    assert bool(((factors >= 0) & (factors <= 1)).all())
    assert factors[0] == factors[1] == 0
    assert bool((factors.diff() >= 0).all())


@pytest.mark.parametrize("power", [1, 2])
def test_without_pressure_nothing_shrinks(power) -> None:
    factors = shrink_factors(STRENGTHS[1:], torch.tensor(0.0), power)
    assert torch.equal(factors, torch.ones_like(factors))


@pytest.mark.parametrize("power", [1, 2])
def test_what_is_left_after_many_small_steps_is_foretold(power) -> None:
    total, steps = torch.tensor(0.11, dtype=torch.float64), 2000
    foretold = left_after(STRENGTHS, total, power)
    left = STRENGTHS.clone()
    for _ in range(steps):
        left = left * shrink_factors(left, total / steps, power)
    assert torch.equal(foretold, left > 0)
    assert foretold.any()
    assert not foretold.all()


def stepped(optimizer_of, factor):
    """Make a step, rescale, and give how the parameter moves in the next one without gradient."""
    parameter = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    optimizer = optimizer_of([parameter])
    parameter.grad = torch.tensor([0.5, -1.0], dtype=torch.float64)
    optimizer.step()
    rescale(parameter, torch.tensor(factor, dtype=torch.float64), optimizer)
    before = parameter.detach().clone()
    parameter.grad = torch.zeros(2, dtype=torch.float64)
    optimizer.step()
    return before, parameter.detach() - before


@pytest.mark.parametrize("factor", [0.5, 4.0])
def test_momentum_goes_on_in_the_new_units(factor) -> None:
    def sgd(parameters):
        return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)

    before, motion = stepped(sgd, 1.0)
    scaled, scaled_motion = stepped(sgd, factor)
    torch.testing.assert_close(scaled, factor * before)
    torch.testing.assert_close(scaled_motion, factor * motion)


def test_moments_of_gradients_go_the_other_way() -> None:
    parameter = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = torch.optim.AdamW([parameter], lr=0.1, amsgrad=True)
    parameter.grad = torch.tensor([0.5, -1.0])
    optimizer.step()
    before = {key: value.clone() for key, value in optimizer.state[parameter].items()}
    rescale(parameter, torch.tensor([2.0, 4.0]), optimizer)
    after = optimizer.state[parameter]
    scale = torch.tensor([2.0, 4.0])
    torch.testing.assert_close(after["exp_avg"], before["exp_avg"] / scale)
    for key in ("exp_avg_sq", "max_exp_avg_sq"):
        torch.testing.assert_close(after[key], before[key] / scale.square())


def test_without_an_optimizer_or_its_state_only_the_parameter_is_rescaled() -> None:
    parameter = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    rescale(parameter, torch.tensor(2.0), optimizer)
    rescale(parameter, torch.tensor(2.0), None)
    assert parameter.tolist() == [4.0, 8.0]
    assert not optimizer.state[parameter]
