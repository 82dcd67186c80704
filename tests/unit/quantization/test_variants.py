"""Ablations: each differs in what it says, and in nothing else."""

import copy

import pytest
import torch
from torch import nn

from lissom.extension import StepState
from lissom.quantization.goals import FileBytes, Phases
from lissom.quantization.steering import FileSize, SizeSteering
from lissom.quantization.variants import (
    BinaryEntropyNetwork,
    PrunedFirstNetwork,
    UniformNetwork,
    attach_variant,
)
from lissom.train.schedule import build_optimizer
from lissom.train.settings import TrainSettings

STEPS = 100
OURS = {"price": "coder", "order": "joint", "allocation": "learned"}


class Loop:
    def __init__(self, limit, **changes):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 6))
        self.inputs = torch.randn(64, 24)
        self.targets = copy.deepcopy(self.model)(self.inputs).detach()
        self.network = attach_variant(self.model, ["0", "2"], 4, **{**OURS, **changes})
        phases = Phases()
        self.steering = SizeSteering(self.network, FileBytes(limit, phases), self.weigh, phases)
        settings = TrainSettings(learning_rate=0.02)
        self.optimizer = build_optimizer(self.model, settings, (), self.steering.learns())

    def weigh(self, levels):
        bits = sum(float((1 + 2 * one.levels.abs()).log2().sum()) for one in levels.values())
        return FileSize(levels=round(1.3 * bits / 8), others=40)

    def run(self, end=STEPS):
        for step in range(end):
            loss = (self.model(self.inputs) - self.targets).square().mean()
            price = self.steering.penalty()
            self.optimizer.zero_grad()
            (loss if price is None else loss + price).backward()
            self.optimizer.step()
            self.steering.after_step(StepState(0.02, step, STEPS, self.optimizer))
        return self

    def masks(self):
        return {name: one.levels != 0 for name, one in self.network.levelled().items()}


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"price": "binary_entropy"}, BinaryEntropyNetwork),
        ({"order": "prune_then_quantize"}, PrunedFirstNetwork),
        ({"allocation": "uniform"}, UniformNetwork),
    ],
)
def test_every_ablation_comes_to_the_size(changes, kind):
    loop = Loop(200, **changes)
    assert type(loop.network) is kind
    loop.run()
    size = loop.weigh(loop.network.levelled()).total
    assert 150 < size <= 200


def test_uniform_is_uniform_and_learns_nothing_but_weights():
    loop = Loop(200, allocation="uniform").run(60)
    densities = [float(mask.float().mean()) for mask in loop.masks().values()]
    assert densities[0] == pytest.approx(densities[1], abs=0.03)
    assert {one.bits for one in loop.network.levelled().values()} <= {3, 4}
    stepped = {id(p) for group in loop.optimizer.param_groups for p in group["params"]}
    assert not any(
        id(p) in stepped for zone in loop.network.zones.values() for p in zone.parameters()
    )


def test_masks_come_first_and_stay():
    loop = Loop(200, order="prune_then_quantize").run(40)
    weight = loop.model[0].weight
    kept = weight[weight != 0]
    original = loop.network.weights()["0"]
    assert torch.allclose(kept, original[weight != 0], atol=1e-5)  # nothing is rounded yet
    assert 0.1 < float((weight == 0).float().mean()) < 0.95
    later = Loop(200, order="prune_then_quantize").run(46)
    masks = {name: zone.mask.clone() for name, zone in later.network.zones.items()}
    assert 0.1 < float((~masks["0"]).float().mean()) < 0.95
    assert len(later.model[0].weight.unique()) < 40  # rounded now
    for step in range(46, 80):
        loss = (later.model(later.inputs) - later.targets).square().mean()
        later.optimizer.zero_grad()
        loss.backward()
        later.optimizer.step()
        later.steering.after_step(StepState(0.02, step, STEPS, later.optimizer))
    for name, mask in later.masks().items():
        assert not bool((mask & ~masks[name]).any())


def test_while_masks_are_learned_every_parameter_has_a_gradient():
    loop = Loop(200, order="prune_then_quantize")
    loop.model(loop.inputs).square().sum().backward()
    assert all(parameter.grad is not None for parameter in loop.steering.learns())


def test_the_published_price_is_bits_per_weight_and_a_mask():
    loop = Loop(200, price="binary_entropy")
    bits = loop.network.bits()
    count = sum(weight.numel() for weight in loop.network.weights().values())
    assert 1.5 * count < float(bits.detach()) < 5 * count  # 4 bits, most weights kept
    bits.backward()
    for zone in loop.network.zones.values():
        assert float(zone.tau.grad) < 0
        assert float(zone.rho.grad) > 0
