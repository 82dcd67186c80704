"""The shortcut without parameters: subsampling, then channels of zeros."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ZeroPadShortcut(nn.Module):
    """Subsample by a stride and copy the channels between zeros ("option A").

    It owns no tensors, so it leaves no trace in a state dict. Which input channel an output channel
    copies is kept as a map that surgery can rewrite (``lissom.plan.surgery.ChannelMap``).

    Attributes:
        source: For each output channel the input channel that it copies, or -1 for zeros.
        in_channels: Number of channels that it expects.
        stride: Spatial subsampling.

    Source:
        He et al., CVPR 2016, arXiv:1512.03385, Sec. 3.3, option A.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 2) -> None:
        """Put the ``in_channels`` copies in the middle of ``out_channels`` channels."""
        super().__init__()
        before = (out_channels - in_channels) // 2
        after = out_channels - in_channels - before
        self.source: tuple[int, ...] = (-1,) * before + tuple(range(in_channels)) + (-1,) * after
        self.in_channels = in_channels
        self.stride = stride

    def select(self, keep_in: Sequence[int], keep_out: Sequence[int]) -> None:
        """Keep only some channels of either side.

        Args:
            keep_in: Indices of the input channels that are left, in their new order.
            keep_out: Indices of the output channels that are left, in their new order.

        Raises:
            IndexError: An index of ``keep_out`` is out of range.
        """
        position = {old: new for new, old in enumerate(keep_in)}
        self.source = tuple(position.get(self.source[channel], -1) for channel in keep_out)
        self.in_channels = len(keep_in)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, len(source), ceil(H / stride), ceil(W / stride))."""
        x = x[:, :, :: self.stride, :: self.stride]
        before = _padding_before(self.source, self.in_channels)
        if before is not None:
            after = len(self.source) - before - self.in_channels
            return F.pad(x, (0, 0, 0, 0, before, after))
        # The appended channel of zeros has the index in_channels.
        index = [self.in_channels if channel < 0 else channel for channel in self.source]
        extended = F.pad(x, (0, 0, 0, 0, 0, 1))
        return extended.index_select(1, torch.tensor(index, device=x.device))

    def extra_repr(self) -> str:
        """Give the sizes for ``print(model)``."""
        return f"{self.in_channels}, {len(self.source)}, stride={self.stride}"


def _padding_before(source: tuple[int, ...], in_channels: int) -> int | None:
    """Count the zeros in front if ``source`` is all inputs in order between zeros, else None."""
    before = next((i for i, channel in enumerate(source) if channel >= 0), len(source))
    after = len(source) - before - in_channels
    if after < 0:
        return None
    padded = (-1,) * before + tuple(range(in_channels)) + (-1,) * after
    return before if source == padded else None
