"""Tiny networks, one per family of operators."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Net(nn.Module):
    """Layers by name and a function of (self, x): keeps the cases in the tests short."""

    def __init__(self, rule, **layers) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self._rule = rule

    def forward(self, *inputs):
        return self._rule(self, *inputs)


def conv(cin: int, cout: int, kernel: int = 3, **options) -> nn.Conv2d:
    return nn.Conv2d(cin, cout, kernel, padding=kernel // 2, **options)


class Residual(nn.Module):
    """stem(8) -> x + b(a(x)) -> head; a has 6 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = conv(3, 8), nn.BatchNorm2d(8)
        self.a, self.b = conv(8, 6), conv(6, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = x + self.b(F.relu_(self.a(x)))
        return self.head(x.mean((2, 3)))


class Gate(nn.Module):
    """Squeeze and excitation on 8 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down, self.up = conv(3, 8), conv(8, 2, 1), conv(2, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        gate = torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))
        return self.head((x * gate).flatten(2).mean(2))


class LiteralShortcut(nn.Module):
    """Option A written out with numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide = conv(3, 4), conv(4, 8, stride=2)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return self.head((self.wide(x) + shortcut).mean((2, 3)))


class Fourier(nn.Module):
    """An operator that the table does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv(3, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.fft.fft2(self.stem(x)).real
        return self.head(x.mean((2, 3)))


class LiteralView(nn.Module):
    """Flattens to a number of features."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv(3, 4), nn.Linear(4 * 64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x).view(-1, 256))


class TrainedHead(nn.Module):
    """An auxiliary head that runs in train mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = conv(3, 8), conv(8, 8)
        self.head, self.aux = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor):
        x = self.stem(x)
        main = self.head(self.body(x).mean((2, 3)))
        return (main, self.aux(x.mean((2, 3)))) if self.training else main


class Undecidable(nn.Module):
    """Control flow that depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv(3, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if x.sum() > 0:
            x = x + 1
        return self.head(x.mean((2, 3)))
