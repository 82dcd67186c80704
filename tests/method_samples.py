"""Networks and views that the tests of sensitivity, search and methods share."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissom.extension import ModelView, Proposal
from lissom.graph.capture import capture
from lissom.plan.build import apply_values, build
from lissom.plan.decision import Decision
from lissom.plan.plan import Plan
from lissom.task import Classification, Data


class Small(nn.Module):
    """A residual network whose stream has 16 channels and whose block has 24 inside."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.a, self.norm_a = nn.Conv2d(16, 24, 3, padding=1), nn.BatchNorm2d(24)
        self.b, self.norm_b = nn.Conv2d(24, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.c = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.norm_b(self.b(F.relu(self.norm_a(self.a(x))))))
        return self.head(F.relu(self.c(x)).mean((2, 3)))


class Mixed(nn.Module):
    """Concatenation, a grouped and a depthwise convolution, odd sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, stride=2)
        self.b = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.c = nn.Conv2d(8, 12, (3, 1), stride=(2, 1), bias=False)
        self.depthwise = nn.Conv2d(20, 20, 3, padding=1, groups=20)
        self.d = nn.Conv2d(20, 10, 1)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        x = torch.cat([self.b(x)[:, :, :3], self.c(x)], 1)
        return self.head(F.relu(self.d(self.depthwise(F.relu(x)))).mean((2, 3)))


class Normed(nn.Module):
    """Channels that an operator computes over: removing some changes the others."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.gelu(self.b(self.norm(self.a(x)))))


def seeded(factory, seed: int = 0) -> nn.Module:
    """Build a network in eval mode whose weights and statistics look trained."""
    torch.manual_seed(seed)
    model = factory().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)  # differences reach the outputs
    return model


def batches_of(*shape: int, count: int = 2, size: int = 16, seed: int = 1) -> list:
    """Give batches of (images, classes)."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, *shape, generator=generator), torch.arange(size) % 4)
        for _ in range(count)
    ]


def view_of(model: nn.Module, *shape: int, **options) -> ModelView:
    """Capture a network; calibration data are random."""
    batches = options.pop("batches", None) or batches_of(*shape)
    inputs = (torch.zeros(1, *shape),)
    data = Data(batches, batches, batches, batches)
    options = {"round_to": 1, **options}
    return ModelView(model, capture(model, inputs), inputs, Classification(), data, **options)


def small_view(**options) -> ModelView:
    return view_of(seeded(Small), 3, 8, 8, **options)


def built(
    model: nn.Module, decisions: tuple[Decision, ...], values: dict[str, Tensor]
) -> nn.Module:
    """Give the network that decisions and values describe."""
    network = build(copy.deepcopy(model), Plan(decisions))
    apply_values(network, {**network.state_dict(), **values})
    return network.eval()


def applied(view: ModelView, proposal: Proposal) -> nn.Module:
    return built(view.model, proposal.plan.decisions, dict(proposal.values))
