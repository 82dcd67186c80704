"""Convolutions over all their attributes, with inputs that fit them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn


@dataclass(frozen=True)
class ConvolutionCase:
    """A convolution in double precision (so that tolerances are tight) and an input for it."""

    conv: nn.Conv2d
    inputs: Tensor

    @property
    def network(self) -> nn.Sequential:
        return nn.Sequential(self.conv).eval()


def seeds() -> st.SearchStrategy[int]:
    return st.integers(0, 2**31 - 1)


@st.composite
def convolutions(draw: st.DrawFn, *, most: int = 6) -> ConvolutionCase:
    """Draw every attribute: stride and padding pairs, `same`, `valid`, dilation, mode, bias."""
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, dilation = draw(pair), draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    padding = draw(
        st.one_of(st.just("same"), st.just("valid"), pair.map(lambda p: (p[0] - 1, p[1] - 1)))
    )
    stride = (1, 1) if padding == "same" else draw(pair)
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    # Large enough for the kernel and for the widest reflecting padding.
    height, width = (draw(st.integers(r + 3, r + 6)) for r in reach)
    torch.manual_seed(draw(seeds()))
    conv = nn.Conv2d(
        draw(st.integers(1, most)),
        draw(st.integers(1, most)),
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        bias=draw(st.booleans()),
        padding_mode=mode,
        dtype=torch.float64,
    )
    inputs = torch.randn(2, conv.in_channels, height, width, dtype=torch.float64)
    return ConvolutionCase(conv, inputs)


def covariance(size: int, rank: int, seed: int) -> Tensor:
    """Give E[x x^T] of ``size`` correlated inputs, of at most ``rank``; double precision."""
    generator = torch.Generator().manual_seed(seed)
    samples = torch.randn(rank, size, dtype=torch.float64, generator=generator)
    return samples.T @ samples / rank
