"""ResNet-20 ... 110 for 32 x 32 images, and a tiny one for the 8 x 8 digits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from lissom.errors import ModelError
from lissom.models.shortcut import ZeroPadShortcut


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut without parameters."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = ZeroPadShortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Give relu(residual + shortcut)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class ResNetCifar(nn.Module):
    """Residual network of stages ``layer1``, ``layer2``, ...; all but the first halve the image.

    The state-dict keys are ``conv1``, ``bn1``, ``layerI.J.{conv1,bn1,conv2,bn2}`` and ``linear``.

    Source:
        He et al., CVPR 2016, arXiv:1512.03385, Sec. 4.2.
    """

    def __init__(
        self, blocks: Sequence[int], widths: Sequence[int], in_channels: int = 3, classes: int = 10
    ) -> None:
        """Build it.

        Args:
            blocks: Residual blocks per stage.
            widths: Channels per stage, as many as ``blocks``.
            in_channels: Channels of the image.
            classes: Number of logits.
        """
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.stages = len(widths)
        sides = pairwise((widths[0], *widths))
        for i, ((before, width), count) in enumerate(zip(sides, blocks, strict=True), start=1):
            first = BasicBlock(before, width, stride=1 if i == 1 else 2)
            rest = (BasicBlock(width, width, stride=1) for _ in range(count - 1))
            self.add_module(f"layer{i}", nn.Sequential(first, *rest))
        self.linear = nn.Linear(widths[-1], classes)
        _initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W) to logits (N, classes)."""
        x = F.relu(self.bn1(self.conv1(x)))
        for i in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{i}")(x)
        return self.linear(x.mean(dim=(2, 3)))


def _initialize(model: nn.Module) -> None:
    """Start as He et al., ICCV 2015, arXiv:1502.01852 do."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)


def resnet_cifar(depth: int, classes: int = 10) -> ResNetCifar:
    """Build the network of 6 n + 2 layers and 16, 32, 64 channels.

    Raises:
        ModelError: ``depth`` is not 6 n + 2.
    """
    if depth < 8 or depth % 6 != 2:
        raise ModelError(f"a CIFAR ResNet has 6n+2 layers (20, 32, 44, 56, 110), got depth={depth}")
    return ResNetCifar(((depth - 2) // 6,) * 3, (16, 32, 64), classes=classes)


def digits_resnet(classes: int = 10) -> ResNetCifar:
    """Build a network for 1 x 8 x 8 images with channels to spare: 73,762 parameters."""
    return ResNetCifar((2, 2), (24, 40), in_channels=1, classes=classes)
