"""ResNet-8 in the form of the MLPerf Tiny benchmark."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class _Block(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.same = stride == 1
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=int(self.same))
        self.bn1 = nn.BatchNorm2d(out_channels, eps=1e-3)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(out_channels, eps=1e-3)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        # Keras' SAME padding of an even image at stride 2 lies on the right and at the bottom.
        padded = x if self.same else F.pad(x, (0, 1, 0, 1))
        out = F.relu(self.bn1(self.conv1(padded)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class ResNet8(nn.Module):
    """Three residual blocks of 16, 32, 64 channels; inputs are raw RGB values 0..255 as floats.

    Every convolution has a bias, batch norms have eps 1e-3, shortcuts that change the size are
    1 x 1 convolutions without batch norm.

    Source:
        Banbury et al., MLPerf Tiny Benchmark, NeurIPS 2021, arXiv:2106.07597, and its
        reference code.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(16, eps=1e-3)
        self.layer1 = _Block(16, 16, stride=1)
        self.layer2 = _Block(16, 32, stride=2)
        self.layer3 = _Block(32, 64, stride=2)
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, H, W), H and W divisible by 4, to logits (N, classes)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))
