import copy

import pytest
import torch
from torch import nn

from lissom.extension import StepState
from lissom.quantization.goals import FileBytes, Phases
from lissom.quantization.network import QuantizedNetwork
from lissom.quantization.steering import FileSize, SizeSteering

STEPS = 200


@pytest.fixture
def problem():
    """A regression that a network solves exactly, so that every bit taken away shows."""
    generator = torch.Generator().manual_seed(0)
    teacher = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 6))
    for parameter in teacher.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    inputs = torch.randn(128, 24, generator=generator)
    return teacher, inputs, teacher(inputs).detach()


class Loop:
    """The training loop, as short as it can be."""

    def __init__(self, problem, limit, phases=None):
        teacher, self.inputs, self.targets = problem
        self.model = copy.deepcopy(teacher)
        self.network = QuantizedNetwork.attach(self.model, ["0", "2"])
        self.weighings = []
        phases = phases or Phases()
        self.steering = SizeSteering(self.network, FileBytes(limit, phases), self.weigh, phases)
        own = {id(parameter) for parameter in self.steering.learns()}
        rest = [parameter for parameter in self.model.parameters() if id(parameter) not in own]
        self.optimizer = torch.optim.SGD(rest, lr=0.01, momentum=0.9)
        self.restarts = []

    def weigh(self, levels):
        """Charge the magnitudes: a stand-in for the real coder."""
        bits = sum(
            float((1 + 2 * one.levels.abs().double()).log2().sum()) for one in levels.values()
        )
        self.weighings.append(bits)
        return FileSize(levels=round(1.3 * bits / 8), others=40)

    def run(self, start=0, end=STEPS):
        for step in range(start, end):
            loss = (self.model(self.inputs) - self.targets).square().mean()
            price = self.steering.penalty()
            self.optimizer.zero_grad()
            (loss if price is None else loss + price).backward()
            self.optimizer.step()
            state = StepState(0.01, step, STEPS, self.optimizer)
            if self.steering.after_step(state):
                self.restarts.append(step)
        return self

    def size(self):
        return self.weigh(self.network.levelled()).total


def test_the_file_fits_and_follows_the_ramp(problem):
    start = Loop(problem, 10**6).size()
    limit = start // 2
    loop = Loop(problem, limit).run()
    assert loop.network.holds
    assert 0.95 * limit <= loop.size() <= limit
    assert loop.restarts == [round(0.85 * STEPS) - 1]
    looks = [one for one in loop.steering.trajectory if one["progress"] >= 0.05]
    for look in looks[:-1]:
        assert look["bytes"] == pytest.approx(look["target"], rel=0.05)
    assert any(look["lambda"] > 0 for look in looks)
    assert looks[-1]["bytes"] <= limit


def test_the_price_of_a_bit_falls_where_bits_are_many(problem):
    start = Loop(problem, 10**6).size()
    prices = {}
    for share in (0.4, 0.9):
        loop = Loop(problem, int(share * start)).run(end=160)
        prices[share] = sum(look["lambda"] for look in loop.steering.trajectory[-30:]) / 30
    assert prices[0.4] > 2 * prices[0.9] >= 0


def test_learning_where_the_bits_go_beats_one_factor_for_all(problem):
    limit = Loop(problem, 10**6).size() // 2

    def final_loss(loop):
        return float((loop.model(loop.inputs) - loop.targets).detach().square().mean())

    learned = Loop(problem, limit).run()
    fixed = Loop(problem, limit)
    fixed.steering._learn = lambda step: fixed.steering._adam.step(0.0, step.progress)
    fixed.run()
    assert final_loss(learned) < final_loss(fixed)


def test_after_holding_nothing_but_scales_moves(problem):
    loop = Loop(problem, 400).run(end=180)
    levels = loop.network.levelled()
    assert loop.steering.penalty() is None
    loop.run(180)
    after = loop.network.levelled()
    for name, one in levels.items():
        assert torch.equal(after[name].levels, one.levels)
        assert float(after[name].step) != float(one.step)


@pytest.mark.parametrize("at", [3, 90, 165, 175])
def test_resumes_to_the_bit(problem, at):
    whole = Loop(problem, 400).run()
    stopped = Loop(problem, 400).run(end=at)
    tensors = {k: v.clone() for k, v in stopped.model.state_dict().items()}
    state = {k: v.clone() for k, v in stopped.steering.state_dict().items()}
    resumed = Loop(problem, 400)
    resumed.model.load_state_dict(tensors)
    resumed.steering.load_state_dict(state)
    resumed.optimizer.load_state_dict(stopped.optimizer.state_dict())
    resumed.run(at)
    for one, other in zip(
        whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)
    assert whole.steering.trajectory == resumed.steering.trajectory


def test_weighs_the_real_file_a_few_times_only(problem):
    loop = Loop(problem, 400, Phases(weigh=5)).run(end=169)
    assert len(loop.weighings) == 5


def test_says_where_it_is(problem):
    loop = Loop(problem, 400)
    assert loop.steering.status() == ""
    assert loop.steering.scalars() == {}
    loop.run(end=20)
    assert "kB of" in loop.steering.status()
    assert loop.steering.scalars()["bytes"] > 0


def test_a_training_of_one_step_is_held_within_the_size(problem):
    limit = Loop(problem, 10**6).size() // 2
    loop = Loop(problem, limit)
    state = StepState(0.01, 0, 1, loop.optimizer)
    loop.model(loop.inputs).square().mean().backward()
    loop.optimizer.step()
    assert loop.steering.after_step(state)
    assert loop.network.holds
    assert loop.size() <= limit
    assert len(loop.steering.trajectory) == 2
