"""Networks that the tests of the relaxations share, and what is done with them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissom.graph.capture import capture
from lissom.graph.layers import ModelGraph
from lissom.plan.build import apply_values, build
from lissom.plan.cost import Cost
from lissom.relaxation.merging import Hardened
from lissom.relaxation.rank_and_channels import RankAndChannels
from lissom.relaxation.settings import RelaxationSettings
from lissom.relaxation.support import Key, as_support
from method_samples import seeded


class Residual(nn.Module):
    """Two blocks, the second strided with a projection: a stream of 8, then 12 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.a, self.norm_a = nn.Conv2d(8, 10, 3, padding=1, bias=False), nn.BatchNorm2d(10)
        self.b, self.norm_b = nn.Conv2d(10, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.c, self.norm_c = nn.Conv2d(8, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12)
        self.d, self.norm_d = nn.Conv2d(12, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.skip, self.norm_skip = nn.Conv2d(8, 12, 1, 2, bias=False), nn.BatchNorm2d(12)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.norm_b(self.b(F.relu(self.norm_a(self.a(x))))))
        inner = self.norm_d(self.d(F.relu(self.norm_c(self.c(x)))))
        return self.head(F.relu(inner + self.norm_skip(self.skip(x))).mean((2, 3)))


class Mobile(nn.Module):
    """An inverted bottleneck: expansion, depthwise convolution, projection, residual sum."""

    def __init__(self, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.act = activation or nn.ReLU6()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.up, self.norm_up = nn.Conv2d(8, 12, 1, bias=False), nn.BatchNorm2d(12)
        self.deep = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False)
        self.norm_deep = nn.BatchNorm2d(12)
        self.down, self.norm_down = nn.Conv2d(12, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.stem(x)))
        y = self.act(self.norm_deep(self.deep(self.act(self.norm_up(self.up(x))))))
        return self.head((x + self.norm_down(self.down(y))).mean((2, 3)))


class Plain(nn.Module):
    """Convolutions with biases and without norms, flattened into two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, stride=2)
        self.wide, self.head = nn.Linear(8 * 9, 10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.b(F.relu(self.a(x))))
        return self.head(F.relu(self.wide(x.flatten(1))))


class TwoNames(Residual):
    """A network whose layers are registered a second time."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([self.a, self.b, self.head])


NETWORKS = (Residual, Mobile, Plain, TwoNames)
SHAPE = (3, 8, 8)


def images(count: int = 4, seed: int = 5) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Relaxed:
    """A network, its relaxation and its relaxed copy."""

    model: nn.Module
    relaxation: RankAndChannels
    network: nn.Module

    def vanish(self, masks: dict[Key, Tensor]) -> None:
        """Let the columns and channels outside the masks vanish."""
        whole = {key: torch.ones(len(v)).bool() for key, v in self.relaxation.strengths().items()}
        self.relaxation.freeze(as_support({**whole, **masks}))

    def outputs(self) -> Tensor:
        with torch.no_grad():
            return self.network.eval()(images())

    def built(self, hardened: Hardened) -> nn.Module:
        network = build(self.model, hardened.plan)
        apply_values(network, hardened.values)
        return network.eval()


@cache
def graph_of(factory) -> ModelGraph:
    """Capture a network once: names and shapes do not depend on its weights."""
    return capture(seeded(factory), (torch.zeros(1, *SHAPE),))


def relaxed(factory, *, seed: int = 0, covariances=None, **settings) -> Relaxed:
    """Relax a network with random weights and statistics; its example inputs are zeros."""
    return relaxed_from(seeded(factory, seed), graph_of(factory), covariances, **settings)


def relaxed_from(model: nn.Module, graph: ModelGraph, covariances=None, **settings) -> Relaxed:
    inputs = (torch.zeros(1, *SHAPE),)
    chosen = RelaxationSettings(**settings)
    relaxation = RankAndChannels(model, graph, inputs, chosen, covariances=covariances)
    return Relaxed(model, relaxation, relaxation.relax(copy.deepcopy(model)))


def counted(model: nn.Module) -> Cost:
    """Count parameters, and multiplications while the network runs."""
    macs: list[int] = []

    def count(module: nn.Module, _inputs: object, output: Tensor) -> None:
        macs.append(output[0].numel() * module.weight[0].numel())

    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        model(torch.zeros(1, *SHAPE))
    for hook in hooks:
        hook.remove()
    params = sum(p.numel() for p in model.parameters())
    return Cost(params, sum(macs), 32 * params)


def random_masks(relaxation: RankAndChannels, seed: int, share: float) -> dict[Key, Tensor]:
    """Draw which columns and channels stay, each with probability ``share``."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.rand(len(strengths), generator=generator) < share
        for key, strengths in relaxation.strengths().items()
    }


def relative_difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max().clamp_min(1e-12))
