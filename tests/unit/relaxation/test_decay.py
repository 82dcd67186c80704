"""Letting fade what is about to go."""

import pytest
import torch

from lissom.errors import RecipeError
from lissom.extension import StepState
from lissom.relaxation.block import product
from lissom.relaxation.decay import DecaySteering
from lissom.relaxation.ramp import Ramp
from lissom.relaxation.steering import BudgetSteering
from lissom.relaxation.support import COLUMNS, nothing_slow
from relaxation_samples import Residual, counted, relaxed

STEPS = 100
RAMP = Ramp(start=0.0, end=0.5, cut=0.6, every=1)


class Still:
    """A training in which nothing but the steering moves."""

    def __init__(self, shares, slow=nothing_slow, **options):
        self.case = relaxed(Residual, penalty="decay", **options)
        self.relaxation = self.case.relaxation
        whole = self.relaxation.graph.cost
        self.limits = {unit: int(share * getattr(whole, unit)) for unit, share in shares.items()}
        self.steering = DecaySteering(self.relaxation, self.limits, RAMP, lead=0.2, slow=slow)
        self.optimizer = torch.optim.SGD(self.case.network.parameters(), lr=0.1)

    def run(self, start=0, end=STEPS):
        restarts = []
        for step in range(start, end):
            if self.steering.after_step(StepState(0.1, step, STEPS, self.optimizer)):
                restarts.append(step)
        return restarts


@pytest.mark.parametrize("shares", [{"macs": 0.5}, {"params": 0.4}, {"macs": 0.6, "params": 0.5}])
def test_the_cost_is_at_its_target_all_the_way(shares):
    still = Still(shares)
    assert still.run() == [59]
    looks = still.steering.trajectory
    for look in looks:
        assert all(look[unit] <= look[f"target_{unit}"] + 1e-9 for unit in shares)
    assert any(0.6 < look["macs"] < 0.95 for look in looks)
    cost = counted(still.case.built(still.relaxation.harden(still.case.network)))
    assert all(getattr(cost, unit) <= limit for unit, limit in still.limits.items())


def test_what_stays_keeps_its_strength_and_what_goes_fades_first():
    still = Still({"macs": 0.5}, learn=("columns",))
    courses = [still.relaxation.strengths()]
    for step in range(STEPS):
        still.run(step, step + 1)
        courses.append(still.relaxation.strengths())
    first, last = courses[0], courses[-1]
    faded = 0
    for key, begun in first.items():
        kept = last[key] > 0
        assert torch.allclose(last[key][kept], begun[kept], rtol=1e-4)
        for index in torch.nonzero(~kept).flatten().tolist():
            course = [float(one[key][index]) for one in courses]
            ended = next(step for step, value in enumerate(course) if value == 0)
            assert not any(course[ended:])  # for good
            faded += course[ended - 1] < 0.5 * course[0]
    assert faded >= 3


def test_what_the_loss_restores_may_stay():
    still = Still({"macs": 0.5}, learn=("columns",))
    still.run(end=10)
    fading = {
        key: (v > 0)
        & (v < 0.97 * Still({"macs": 0.5}, learn=("columns",)).relaxation.strengths()[key])
        for key, v in still.relaxation.strengths().items()
    }
    key = next(key for key, mask in fading.items() if mask.any())
    index = int(torch.nonzero(fading[key])[0])
    block = still.relaxation.columns[key[1]].block
    for step in range(10, STEPS):
        if still.relaxation.support is None:
            with torch.no_grad():
                block.coefficients[:, index] *= 1.5  # a loss that insists
        still.run(step, step + 1)
    assert float(still.relaxation.strengths()[key][index]) > 0


@pytest.mark.parametrize("at", [7, 30, 59, 80])
def test_resumes_to_the_bit(at):
    whole, stopped, resumed = (Still({"macs": 0.5}) for _ in range(3))
    whole.run()
    stopped.run(end=at)
    resumed.case.network.load_state_dict(stopped.case.network.state_dict())
    resumed.steering.load_state_dict(stopped.steering.state_dict())
    resumed.run(at)
    for key, values in whole.relaxation.strengths().items():
        assert torch.equal(values, resumed.relaxation.strengths()[key])
    assert whole.steering.trajectory == resumed.steering.trajectory


def test_a_layer_that_ends_as_one_keeps_all_of_its_columns():
    still = Still({"macs": 0.7}, learn=("columns",))
    still.run()
    hardened = still.relaxation.harden(still.case.network)
    merged = [pair for pair in hardened.pairs if pair.merged]
    assert merged
    assert len(merged) < len(hardened.pairs)
    assert all(pair.rank == pair.full for pair in merged)


def test_what_is_slow_as_a_pair_is_asked_before_it_loses_columns():
    asked = []

    def slow(now):
        asked.append(now)
        return {(COLUMNS, name): 0 for name in now.low_rank if name in ("b", "d")}

    still = Still({"macs": 0.75}, learn=("columns",), slow=slow)
    before = {name: weight_of(still.relaxation.columns[name]) for name in ("b", "d")}
    still.run(end=1)
    assert asked
    again = Still({"macs": 0.75}, learn=("columns",), slow=slow)
    again.case.network.load_state_dict(still.case.network.state_dict())
    again.steering.load_state_dict(still.steering.state_dict())
    count = len(asked)
    again.run(start=1)
    assert len(asked) > count  # at the cut
    hardened = again.relaxation.harden(again.case.network)
    assert {"b", "d"} <= {pair.layer for pair in hardened.pairs if pair.merged}
    for name, weight in before.items():
        after = weight_of(again.relaxation.columns[name])
        torch.testing.assert_close(after, weight, rtol=1e-4, atol=1e-5)


def weight_of(columns):
    block = columns.block
    return product(block.basis.detach(), block.coefficients.detach()).clone()


def test_notes_outlive_an_interruption():
    still, again = (Still({"macs": 0.7}) for _ in range(2))
    still.steering.notes["timed"] = {"first": 1.5}
    again.steering.notes["timed"] = {"first": 2.5, "second": 3}
    again.steering.load_state_dict(still.steering.state_dict())
    assert again.steering.notes == {"timed": {"first": 1.5, "second": 3}}


def test_the_steering_must_fit_the_penalty():
    decaying = relaxed(Residual, penalty="decay").relaxation
    with pytest.raises(RecipeError, match="asks for DecaySteering"):
        BudgetSteering(decaying, {"macs": 1})
    shrinking = relaxed(Residual, penalty="energy").relaxation
    with pytest.raises(RecipeError, match="asks for BudgetSteering"):
        DecaySteering(shrinking, {"macs": 1})
