"""The one place that builds or slices layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import ParametrizationList

from lissom.errors import PlanError, UnsupportedLayer
from lissom.plan.attributes import agree, prepare_cut

_PLAIN_CONVOLUTIONS = frozenset(
    {nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d}
)


C = TypeVar("C", bound=_ConvNd)
M = TypeVar("M", bound=nn.Module)


@runtime_checkable
class ChannelMap(Protocol):
    """A module without parameters that copies input to output channels, some of them zeros.

    Attributes:
        source: For each output channel the input channel that it copies; -1 for zeros.
        in_channels: Number of input channels.
    """

    source: tuple[int, ...]
    in_channels: int

    def select(self, keep_in: Sequence[int], keep_out: Sequence[int]) -> None:
        """Rewrite ``source`` for the kept input and output channels (indices before the cut)."""


def conv_like(conv: C, **changes: Any) -> C:
    """Build a convolution of the same class with every attribute of ``conv`` except ``changes``.

    The new weights are zeros (no random number is drawn), on the device and of the type of
    ``conv``'s; ``training`` and ``requires_grad`` are taken over.

    Args:
        conv: A convolution of torch's own classes, transposed or not.
        changes: Constructor arguments that differ, ``bias`` as a boolean.

    Raises:
        UnsupportedLayer: ``conv`` is a subclass, whose constructor nobody knows.
    """
    if type(conv) not in _PLAIN_CONVOLUTIONS:
        raise UnsupportedLayer(
            f"{type(conv).__qualname__} is not one of torch's own convolution classes and can't be "
            "rebuilt; replace it with torch.nn.Conv2d or exclude the layer"
        )
    attributes: dict[str, Any] = {
        "in_channels": conv.in_channels,
        "out_channels": conv.out_channels,
        "kernel_size": conv.kernel_size,
        "stride": conv.stride,
        "padding": conv.padding,
        "dilation": conv.dilation,
        "groups": conv.groups,
        "bias": conv.bias is not None,
        "padding_mode": conv.padding_mode,
        "device": conv.weight.device,
        "dtype": conv.weight.dtype,
    }
    if conv.transposed:
        attributes["output_padding"] = conv.output_padding
    attributes |= changes
    return _materialize(type(conv)(**(attributes | {"device": "meta"})), conv, attributes["device"])


def linear_like(linear: nn.Linear, **changes: Any) -> nn.Linear:
    """Build a linear layer with every attribute of ``linear`` except ``changes``; as ``conv_like``.

    Raises:
        UnsupportedLayer: ``linear`` is a subclass of ``torch.nn.Linear``.
    """
    if type(linear) is not nn.Linear:
        raise UnsupportedLayer(
            f"{type(linear).__qualname__} is not torch.nn.Linear itself and can't be rebuilt; "
            "replace it with torch.nn.Linear or exclude the layer"
        )
    attributes: dict[str, Any] = {
        "in_features": linear.in_features,
        "out_features": linear.out_features,
        "bias": linear.bias is not None,
        "device": linear.weight.device,
        "dtype": linear.weight.dtype,
    }
    attributes |= changes
    new = nn.Linear(**(attributes | {"device": "meta"}))
    return _materialize(new, linear, attributes["device"])


def _materialize(new: M, like: _ConvNd | nn.Linear, device: torch.device | str) -> M:
    """Move ``new`` from the meta device, zeroed; its constructor elsewhere would draw numbers."""
    new.to_empty(device=device)
    with torch.no_grad():
        for name, parameter in new.named_parameters():
            parameter.zero_()
            old = getattr(like, name, None)
            parameter.requires_grad_(
                like.weight.requires_grad if old is None else old.requires_grad
            )
    return new.train(like.training)


def submodule(model: nn.Module, name: str) -> nn.Module:
    """Give the module called ``name``.

    Raises:
        PlanError: There is none.
    """
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise PlanError(
            f"layer {name!r} does not exist in {type(model).__name__}; the plan belongs to another "
            "network, "
            "or an earlier decision has already replaced the layer"
        ) from None


def replace_module(model: nn.Module, name: str, new: nn.Module) -> None:
    """Put ``new`` in the place of the module called ``name``, under every name that the module has.

    Raises:
        PlanError: There is no such module, or it is ``model`` itself.
    """
    old = submodule(model, name)
    if old is model:
        raise PlanError(
            f"the network itself is a {type(model).__name__} and has no parent that could hold a "
            "replacement; "
            "wrap it in torch.nn.Sequential"
        )
    for parent in model.modules():
        for key, child in parent._modules.items():
            if child is old:
                parent._modules[key] = new


def slice_axis(
    model: nn.Module, name: str, axis: int, keep: Sequence[int], groups: int = 1
) -> None:
    """Keep some indices along one axis of a tensor, in place, with all that depends on it.

    All aliases of a tied tensor are replaced by the same new tensor, and the attributes of the
    modules that own it (``out_channels``, ``num_features``, ...) are made to agree. Works on the
    meta device.

    Args:
        model: The network.
        name: State-dict name of a parameter or buffer (non-persistent ones too), or the name of a
            ``ChannelMap`` module (axis 0: output, 1: input).
        axis: The axis.
        keep: Strictly increasing indices. Over all channels, ``groups * shape[axis]``, if ``groups
            > 1``.
        groups: Number of convolution groups if ``axis`` is 1 and the axis holds one group's
            channels only; the rows of group j then keep j's own columns.

    Raises:
        PlanError: There is no such tensor, an index does not exist, or groups would become uneven.
    """
    module = _find_map(model, name)
    if module is not None:
        _slice_map(module, name, axis, keep)
        return
    tensor = find_tensor(model, name)
    if not 0 <= axis < tensor.ndim:
        raise PlanError(
            f"{name} has shape {tuple(tensor.shape)}, so there is no axis {axis} to cut"
        )
    _check_indices(name, keep, tensor.shape[axis] * groups)
    owners = _owners(model, tensor)
    for owner, key in owners:
        prepare_cut(owner, name, key, axis, keep)
    new = _select_grouped(tensor, name, keep, groups) if groups > 1 else _select(tensor, axis, keep)
    if isinstance(tensor, nn.Parameter):
        new = nn.Parameter(new, requires_grad=tensor.requires_grad)
    for owner, key in owners:
        slots: dict[str, Any] = owner._parameters if key in owner._parameters else owner._buffers
        slots[key] = new
        agree(owner, name, key)


def find_tensor(model: nn.Module, name: str) -> Tensor:
    """Give the parameter or buffer called ``name``, persistent or not.

    Raises:
        PlanError: There is none, or a parametrization computes it.
    """
    owner_name, _, key = name.rpartition(".")
    owner = submodule(model, owner_name)
    slots: dict[str, Any] = {**owner._buffers, **owner._parameters}
    tensor: Tensor | None = slots.get(key)
    if tensor is None:
        raise PlanError(
            f"tensor {name!r} does not exist in {type(model).__name__}; the plan belongs to "
            "another network"
        )
    if isinstance(owner, ParametrizationList):
        raise PlanError(
            f"{name} is the source of a parametrized tensor and can't be cut; call "
            "torch.nn.utils.parametrize.remove_parametrizations first"
        )
    return tensor


def axis_size(model: nn.Module, name: str, axis: int, groups: int = 1) -> int:
    """Give the length that ``slice_axis`` sees with the same arguments.

    Raises:
        PlanError: There is no such tensor or axis.
    """
    module = _find_map(model, name)
    if module is not None:
        return len(module.source) if axis == 0 else module.in_channels
    tensor = find_tensor(model, name)
    if not 0 <= axis < tensor.ndim:
        raise PlanError(
            f"{name} has shape {tuple(tensor.shape)}, so there is no axis {axis} to cut"
        )
    return tensor.shape[axis] * groups


def _find_map(model: nn.Module, name: str) -> ChannelMap | None:
    try:
        module = model.get_submodule(name)
    except AttributeError:
        return None
    return module if isinstance(module, ChannelMap) else None


def _slice_map(module: ChannelMap, name: str, axis: int, keep: Sequence[int]) -> None:
    inputs, outputs = module.in_channels, len(module.source)
    _check_indices(name, keep, outputs if axis == 0 else inputs)
    if axis == 0:
        module.select(range(inputs), keep)
    else:
        module.select(keep, range(outputs))


def _check_indices(name: str, keep: Sequence[int], size: int) -> None:
    increasing = all(a < b for a, b in pairwise(keep))
    if not keep or not increasing or keep[0] < 0 or keep[-1] >= size:
        raise PlanError(
            f"{name} has {size} entries along the axis to cut; expected at least one index to "
            "keep, strictly "
            f"increasing and below {size}, got {len(keep)} indices {_shorten(keep)}"
        )


def _shorten(indices: Sequence[int]) -> str:
    return (
        str(list(indices)) if len(indices) <= 8 else f"{list(indices[:4])[:-1]} ... {indices[-1]}"
    )


def _owners(model: nn.Module, tensor: Tensor) -> list[tuple[nn.Module, str]]:
    """Find every place that holds this very tensor."""
    return [
        (module, key)
        for module in model.modules()
        for slots in (module._parameters, module._buffers)
        for key, value in slots.items()
        if value is tensor
    ]


def _select(tensor: Tensor, axis: int, keep: Sequence[int]) -> Tensor:
    index = torch.tensor(list(keep), dtype=torch.long, device=tensor.device)
    return tensor.detach().index_select(axis, index)


def _select_grouped(tensor: Tensor, name: str, keep: Sequence[int], groups: int) -> Tensor:
    """Keep, in the rows of convolution group j, the columns of ``keep`` that are j's own."""
    rows, columns = tensor.shape[0], tensor.shape[1]
    own = [[k % columns for k in keep if k // columns == j] for j in range(groups)]
    counts = {len(indices) for indices in own}
    if rows % groups or len(counts) != 1:
        raise PlanError(
            f"{name} is cut for {groups} convolution groups of {columns} channels; expected "
            "equally many "
            f"channels to keep in each, got {[len(indices) for indices in own]}"
        )
    parts = tensor.detach().chunk(groups, dim=0)  # each (rows / groups, columns, ...)
    return torch.cat([_select(part, 1, indices) for part, indices in zip(parts, own, strict=True)])
