"""The decisions that also split a kernel into a vertical and a horizontal one."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, ClassVar, TypeGuard

from torch import nn

from lissom.plan.low_rank import POINTWISE, Factorization, check_convolution, check_rank
from lissom.plan.surgery import conv_like


@dataclass(frozen=True, slots=True)
class SpatialSVD(Factorization):
    """Replace a convolution by kH x 1 without bias (``first``) and 1 x kW with it (``last``).

    Vertical stride, padding and dilation go to ``first``, horizontal ones to ``last``: every
    padding mode of Conv2d pads rows and columns independently, and a vertical convolution without
    bias treats all columns alike, padded ones included. Full rank gives the same function.

    Attributes:
        layer: Name of the convolution.
        rank: Channels between the two, 1 to min(S kH, T kW).

    Source:
        Jaderberg et al., BMVC 2014, arXiv:1405.3866, Sec. 2.1 (scheme 2); Tai et al., ICLR 2016,
        arXiv:1511.06067.
    """

    kind: ClassVar[str] = "spatial_svd"
    rank: int

    def parts(self, module: nn.Conv2d | nn.Linear) -> OrderedDict[str, nn.Module]:
        """Build ``first`` and ``last``; as in the base class."""
        conv = check_convolution(self.layer, "spatial SVD", module)
        height, width = conv.kernel_size
        highest = min(conv.in_channels * height, conv.out_channels * width)
        check_rank(self.layer, "rank", self.rank, highest)
        return OrderedDict(
            first=conv_like(conv, out_channels=self.rank, bias=False, **_vertical(conv)),
            last=conv_like(conv, in_channels=self.rank, **_horizontal(conv)),
        )


@dataclass(frozen=True, slots=True)
class FilterCP(Factorization):
    """Replace a convolution by a CP decomposition of each of its filters.

    Filter t becomes the sum of R products of an input vector, a column and a row: ``first`` (1x1,
    S to R T channels), ``core`` (kH x 1, depthwise), ``last`` (1 x kW, with the bias). ``last`` has
    T groups of R inputs and one output: the depthwise 1 x kW and the sum over R in one convolution.

    Attributes:
        layer: Name of the convolution.
        rank: Products R per filter, 1 to min(S kH, S kW, kH kW).

    Source:
        Pham, Zniyed and Nguyen, Enhanced network compression through tensor decompositions and
        pruning (NORTON), IEEE TNNLS, 2024 (the layout).
    """

    kind: ClassVar[str] = "filter_cp"
    rank: int

    def parts(self, module: nn.Conv2d | nn.Linear) -> OrderedDict[str, nn.Module]:
        """Build ``first``, ``core`` and ``last``; as in the base class."""
        conv = check_convolution(self.layer, "filter-wise CP", module)
        height, width = conv.kernel_size
        sides = conv.in_channels * height, conv.in_channels * width, height * width
        check_rank(self.layer, "rank", self.rank, min(sides))
        return _filter_cp_parts(conv, self.rank)


def filter_cp_whole(module: nn.Module) -> nn.Conv2d | None:
    """Give the convolution that a module stands for, if it is laid out as ``FilterCP`` does it.

    Args:
        module: Any module of a network.

    Returns:
        The convolution, without values (on the meta device). None where the module is something
        else, and where the module or a part does more than that: hooks, parametrizations, weights
        that are no parameters, a ``forward`` of its own.
    """
    parts = dict(module.named_children())
    if type(module) is not nn.Sequential or list(parts) != ["first", "core", "last"]:
        return None
    convs = [part for part in parts.values() if _is_plain(part)]
    if len(convs) < len(parts) or does_more(module):
        return None
    first, core, last = convs
    if core.in_channels % last.out_channels or not are_halves(core, last):
        return None
    sides = {"in_channels": first.in_channels, "out_channels": last.out_channels, "groups": 1}
    bias = last.bias is not None
    whole = conv_like(core, bias=bias, device="meta", **sides, **joined_halves(core, last))
    expected = _filter_cp_parts(whole, core.in_channels // last.out_channels)
    # A convolution's text names every attribute.
    return whole if list(map(repr, convs)) == list(map(repr, expected.values())) else None


def does_more(module: nn.Module) -> bool:
    """Tell whether calling a module does more than its class's ``forward``."""
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return any(hooks) or "forward" in vars(module)


def are_halves(vertical: nn.Module, horizontal: nn.Module) -> bool:
    """Tell whether one convolution leaves columns alone, another rows, and both pad alike."""
    if not (isinstance(vertical, nn.Conv2d) and isinstance(horizontal, nn.Conv2d)):
        return False
    if vertical.padding_mode != horizontal.padding_mode:
        return False
    if type(vertical.padding) is not type(horizontal.padding):
        return False
    return _leaves(vertical, 1) and _leaves(horizontal, 0)


def joined_halves(vertical: nn.Conv2d, horizontal: nn.Conv2d) -> dict[str, Any]:
    """Give the attributes of the convolution whose halves (``are_halves``) these are."""
    joined = {
        name: (getattr(vertical, name)[0], getattr(horizontal, name)[1])
        for name in ("kernel_size", "stride", "dilation")
    }
    padding = vertical.padding
    if not isinstance(padding, str):
        padding = (padding[0], int(horizontal.padding[1]))
    return {**joined, "padding": padding}


@dataclass(frozen=True, slots=True)
class TensorTrain(Factorization):
    """Replace a convolution by 1x1, kH x 1, 1 x kW and 1x1, the last with the bias.

    The parts are called ``first``, ``vertical``, ``horizontal`` and ``last``.

    Attributes:
        layer: Name of the convolution.
        rank_in: Channels between ``first`` and ``vertical``, 1 to S.
        rank_middle: Channels between ``vertical`` and ``horizontal``, 1 to the smaller of
            rank_in kH and rank_out kW.
        rank_out: Channels between ``horizontal`` and ``last``, 1 to T.

    Source:
        Oseledets, SIAM J. Sci. Comput. 33, 2011 (the format); Garipov et al., 2016,
        arXiv:1611.03214 (convolutions).
    """

    kind: ClassVar[str] = "tensor_train"
    rank_in: int
    rank_middle: int
    rank_out: int

    def parts(self, module: nn.Conv2d | nn.Linear) -> OrderedDict[str, nn.Module]:
        """Build ``first``, ``vertical``, ``horizontal`` and ``last``; as in the base class."""
        conv = check_convolution(self.layer, "tensor train", module)
        height, width = conv.kernel_size
        check_rank(self.layer, "rank_in", self.rank_in, conv.in_channels)
        check_rank(self.layer, "rank_out", self.rank_out, conv.out_channels)
        highest = min(self.rank_in * height, self.rank_out * width)
        check_rank(self.layer, "rank_middle", self.rank_middle, highest)
        down = {"in_channels": self.rank_in, "out_channels": self.rank_middle}
        across = {"in_channels": self.rank_middle, "out_channels": self.rank_out}
        return OrderedDict(
            first=conv_like(conv, out_channels=self.rank_in, bias=False, **POINTWISE),
            vertical=conv_like(conv, bias=False, **down, **_vertical(conv)),
            horizontal=conv_like(conv, bias=False, **across, **_horizontal(conv)),
            last=conv_like(conv, in_channels=self.rank_out, **POINTWISE),
        )


def _filter_cp_parts(conv: nn.Conv2d, rank: int) -> OrderedDict[str, nn.Module]:
    middle = rank * conv.out_channels
    depthwise = {"in_channels": middle, "out_channels": middle, "groups": middle}
    return OrderedDict(
        first=conv_like(conv, out_channels=middle, bias=False, **POINTWISE),
        core=conv_like(conv, bias=False, **depthwise, **_vertical(conv)),
        last=conv_like(conv, in_channels=middle, groups=conv.out_channels, **_horizontal(conv)),
    )


def _is_plain(part: nn.Module) -> TypeGuard[nn.Conv2d]:
    own = type(part) is nn.Conv2d and isinstance(part._parameters.get("weight"), nn.Parameter)
    return own and not does_more(part)


def _leaves(conv: nn.Conv2d, axis: int) -> bool:
    padding = 0 if isinstance(conv.padding, str) else conv.padding[axis]
    return (conv.kernel_size[axis], conv.stride[axis], padding) == (1, 1, 0)


def _vertical(conv: nn.Conv2d) -> dict[str, Any]:
    """Give the kH x 1 half of a convolution's attributes."""
    padding = conv.padding
    return {
        "kernel_size": (conv.kernel_size[0], 1),
        "stride": (conv.stride[0], 1),
        "padding": padding if isinstance(padding, str) else (padding[0], 0),
        "dilation": (conv.dilation[0], 1),
    }


def _horizontal(conv: nn.Conv2d) -> dict[str, Any]:
    """Give the 1 x kW half of a convolution's attributes."""
    padding = conv.padding
    return {
        "kernel_size": (1, conv.kernel_size[1]),
        "stride": (1, conv.stride[1]),
        "padding": padding if isinstance(padding, str) else (0, padding[1]),
        "dilation": (1, conv.dilation[1]),
    }
