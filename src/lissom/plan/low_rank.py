"""The decisions that replace one layer by a product of smaller ones: Tucker-2 and channel SVD."""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from lissom.errors import PlanError, UnsupportedLayer
from lissom.plan.decision import Decision
from lissom.plan.fields import Fields
from lissom.plan.surgery import conv_like, linear_like, replace_module, submodule

POINTWISE: dict[str, Any] = {
    "kernel_size": 1,
    "stride": 1,
    "padding": 0,
    "dilation": 1,
    "padding_mode": "zeros",
}


def check_decomposable(layer: str, module: nn.Module) -> nn.Conv2d | nn.Linear:
    """Give ``module`` back if a low-rank decision can replace it.

    Args:
        layer: Name of the layer, for the message.
        module: The layer.

    Raises:
        UnsupportedLayer: It is neither a plain Conv2d nor a plain Linear, has ``groups != 1``, is
            parametrized or carries hooks.
    """
    kind = type(module).__qualname__
    remedy = f"exclude it with --ignore {layer}"
    if not isinstance(module, (nn.Conv2d, nn.Linear)):
        raise UnsupportedLayer(
            f"{layer}: low rank needs torch.nn.Conv2d or torch.nn.Linear, got {kind}; {remedy}"
        )
    if is_parametrized(module) or "weight" not in module._parameters:
        raise UnsupportedLayer(
            f"{layer}: low rank needs a weight of its own, got a parametrized one; remove the "
            f"parametrization (torch.nn.utils.parametrize.remove_parametrizations) or {remedy}"
        )
    if type(module) not in (nn.Conv2d, nn.Linear):
        raise UnsupportedLayer(
            f"{layer}: low rank needs exactly torch.nn.Conv2d or torch.nn.Linear, got the subclass "
            f"{kind}, "
            f"whose forward may compute something else; {remedy} or use the plain class"
        )
    if module._forward_hooks or module._forward_pre_hooks:
        raise UnsupportedLayer(
            f"{layer}: low rank would lose the forward hooks of the layer; remove them or {remedy}"
        )
    if isinstance(module, nn.Conv2d) and module.groups != 1:
        raise UnsupportedLayer(
            f"{layer}: low rank needs groups=1, got groups={module.groups}; prune its channels "
            f"instead or {remedy}"
        )
    return module


def check_rank(layer: str, name: str, rank: int, highest: int) -> None:
    """Check a rank of a plan against the layer that it is meant for.

    Args:
        layer: Name of the layer, for the message.
        name: Field of the decision, for the message.
        rank: Its value.
        highest: The most that the layer admits; the least is 1.

    Raises:
        PlanError: It is out of range.
    """
    if not 1 <= rank <= highest:
        raise PlanError(
            f"{layer}: {name}={rank}, expected 1 to {highest}; the plan belongs to another network"
        )


@dataclass(frozen=True, slots=True)
class Factorization(Decision):
    """Replace one layer by a sequence of smaller ones whose product approximates it.

    Subclasses add one integer field per rank. The last part takes the bias; the parts before it
    have none, so that zero padding commutes with them.

    Attributes:
        layer: Name of the convolution or linear layer.
    """

    layer: str

    @abstractmethod
    def parts(self, module: nn.Conv2d | nn.Linear) -> OrderedDict[str, nn.Module]:
        """Build the layers that take the place of ``module``, in order, filled with zeros.

        Args:
            module: The layer, already checked by ``check_decomposable``.

        Raises:
            PlanError: A rank exceeds what the layer admits.
            UnsupportedLayer: The family does not do such layers.
        """

    def apply(self, model: nn.Module) -> None:
        """Put the parts in the layer's place.

        Raises:
            PlanError: There is no such layer, or a rank exceeds what it admits.
            UnsupportedLayer: The layer is no plain convolution with ``groups=1`` (or plain Linear,
                where the family does those).
        """
        module = check_decomposable(self.layer, submodule(model, self.layer))
        parts = nn.Sequential(self.parts(module)).train(module.training)
        replace_module(model, self.layer, parts)

    @property
    def target(self) -> str:
        """Name of the layer."""
        return self.layer

    @property
    def ranks(self) -> tuple[int, ...]:
        """Give the ranks in the order of the fields."""
        return tuple(getattr(self, name) for name in self._rank_names())

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON-ready values."""
        return {"layer": self.layer, **dict(zip(self._rank_names(), self.ranks, strict=True))}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Rebuild from ``to_dict``'s output.

        Raises:
            PlanError: A field is missing, unknown or of the wrong type.
        """
        reader = Fields(cls.kind, fields)
        decision = cls(reader.text("layer"), *map(reader.integer, cls._rank_names()))
        reader.finish()
        return decision

    @classmethod
    def _rank_names(cls) -> tuple[str, ...]:
        return tuple(field.name for field in fields(cls) if field.name != "layer")


def check_convolution(layer: str, family: str, module: nn.Conv2d | nn.Linear) -> nn.Conv2d:
    """Give ``module`` back if it is a convolution.

    Args:
        layer: Name of the layer, for the message.
        family: What was to be done to it, for the message.
        module: The layer.

    Raises:
        UnsupportedLayer: It is linear.
    """
    if not isinstance(module, nn.Conv2d):
        raise UnsupportedLayer(
            f"{layer}: {family} needs torch.nn.Conv2d, got Linear; use channel_svd"
        )
    return module


@dataclass(frozen=True, slots=True)
class Tucker2(Factorization):
    """Replace a convolution by 1x1 (``first``), kxk (``core``) and 1x1 with the bias (``last``).

    Stride, padding, dilation and padding mode go to ``core``: a 1x1 convolution without bias
    commutes with every padding of Conv2d, so full ranks give the same function.

    Attributes:
        layer: Name of the convolution.
        rank_in: Channels between ``first`` and ``core``, 1 to the input channels.
        rank_out: Channels between ``core`` and ``last``, 1 to the output channels.

    Source:
        Kim et al., ICLR 2016, arXiv:1511.06530, Sec. 3.
    """

    kind: ClassVar[str] = "tucker2"
    rank_in: int
    rank_out: int

    def parts(self, module: nn.Conv2d | nn.Linear) -> OrderedDict[str, nn.Module]:
        """Build ``first``, ``core`` and ``last``; as in the base class."""
        conv = check_convolution(self.layer, "Tucker-2", module)
        check_rank(self.layer, "rank_in", self.rank_in, conv.in_channels)
        check_rank(self.layer, "rank_out", self.rank_out, conv.out_channels)
        return OrderedDict(
            first=conv_like(conv, out_channels=self.rank_in, bias=False, **POINTWISE),
            core=conv_like(conv, in_channels=self.rank_in, out_channels=self.rank_out, bias=False),
            last=conv_like(conv, in_channels=self.rank_out, **POINTWISE),
        )


@dataclass(frozen=True, slots=True)
class ChannelSVD(Factorization):
    """Replace a layer by kxk without bias (``first``) and 1x1 with it (``last``).

    Stride, padding, dilation and padding mode go to ``first``. A linear layer becomes two.

    Attributes:
        layer: Name of the convolution or linear layer.
        rank: Channels between the two, 1 to the smaller side of the weight as a matrix (out, in *
            kH * kW).

    Source:
        Zhang et al., TPAMI 2016, arXiv:1505.06798, Sec. 3.1.
    """

    kind: ClassVar[str] = "channel_svd"
    rank: int

    def parts(self, module: nn.Conv2d | nn.Linear) -> OrderedDict[str, nn.Module]:
        """Build ``first`` and ``last``; as in the base class."""
        check_rank(self.layer, "rank", self.rank, min(module.weight.flatten(1).shape))
        if isinstance(module, nn.Conv2d):
            return OrderedDict(
                first=conv_like(module, out_channels=self.rank, bias=False),
                last=conv_like(module, in_channels=self.rank, **POINTWISE),
            )
        return OrderedDict(
            first=linear_like(module, out_features=self.rank, bias=False),
            last=linear_like(module, in_features=self.rank),
        )
