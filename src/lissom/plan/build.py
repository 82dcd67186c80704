"""Carry a plan out on a copy of the network, and put stored values in."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lissom.errors import LissomError, PlanError
from lissom.plan.plan import Plan, plan_signature, tensor_shapes


def build(model: nn.Module, plan: Plan) -> nn.Module:
    """Give a copy of ``model`` with every decision carried out; ``model`` stays as it is.

    No arithmetic on values is done, so this works on the meta device. Layers that a decision
    creates hold zeros until ``apply_values`` fills them.

    Args:
        model: The network that the plan was made for.
        plan: What to do.

    Returns:
        A new network of the same class.

    Raises:
        PlanError: The network's tensors differ from those of the plan's original, or a decision
            names something that is not there.
        UnsupportedLayer: A decision meets a layer that it can't do.
    """
    _check_signature(model, plan)
    new = copy.deepcopy(model)
    for position, decision in enumerate(plan.decisions, start=1):
        try:
            decision.apply(new)
        except LissomError as error:
            raise type(error)(
                f"decision {position} of {len(plan.decisions)} ({decision.kind}): {error}"
            ) from None
    return new


def apply_values(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Copy ``values`` into the parameters and buffers of ``model``, in place, on its device.

    Args:
        model: The network as ``build`` gives it; on the meta device its tensors are replaced.
        values: For every name of the state dict a tensor of the same shape and type. Of tied
            tensors one name is enough.

    Raises:
        PlanError: A tensor is missing or superfluous, or has another shape or type; the message
            names the first. Nothing has been changed then. Or a non-persistent buffer is on the
            meta device, where no file can fill it.
    """
    check_values(model, values)
    own = dict(model.state_dict(keep_vars=True))
    _check_transient(model)
    fresh: dict[int, Tensor] = {}
    for name, tensor in own.items():
        if name not in values:
            continue
        if not tensor.is_meta:
            with torch.no_grad():
                tensor.copy_(values[name])
            continue
        # Laid out as a network that was never on meta is: other strides, other last bits.
        value = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype)
        value.copy_(values[name].detach())
        if isinstance(tensor, nn.Parameter):
            value = nn.Parameter(value, requires_grad=tensor.requires_grad)
        fresh[id(tensor)] = value
    _replace_meta(model, fresh)


def check_values(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Refuse values that are not those of a network; only names, shapes and types are looked at.

    Args:
        model: The network as ``build`` gives it.
        values: As ``apply_values`` takes them; on the meta device will do.

    Raises:
        PlanError: Names the first tensor that is missing, superfluous, or another than expected.
    """
    own = dict(model.state_dict(keep_vars=True))
    for name in sorted(own.keys() | values.keys()):
        _check_value(name, own, values)


def _check_transient(model: nn.Module) -> None:
    for owner, module in model.named_modules():
        for key in module._non_persistent_buffers_set:
            buffer = module._buffers.get(key)
            if buffer is not None and buffer.is_meta:
                raise PlanError(
                    f"the buffer {owner}.{key} is not stored and has no values on the meta device; "
                    "build "
                    "the network on a real device"
                )


def _replace_meta(model: nn.Module, fresh: Mapping[int, Tensor]) -> None:
    """Put tensors with storage in the place of meta tensors, wherever those stand."""
    for module in model.modules():
        for key, parameter in module._parameters.items():
            new = fresh.get(id(parameter))
            if isinstance(new, nn.Parameter):
                module._parameters[key] = new
        for key, buffer in module._buffers.items():
            if id(buffer) in fresh:
                module._buffers[key] = fresh[id(buffer)]


def _check_value(name: str, own: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    if name not in own:
        raise PlanError(
            f"the stored tensor {name!r} has no place in the network; weights and plan belong to "
            "different runs, or model= is another network"
        )
    tensor = own[name]
    if name not in values:
        if any(one is tensor for other, one in own.items() if other in values):
            return
        raise PlanError(
            f"the network's tensor {name!r} is not among the stored ones; weights and plan belong "
            "to "
            "different runs, or model= is another network"
        )
    found = values[name]
    if found.shape != tensor.shape or found.dtype != tensor.dtype:
        raise PlanError(
            f"tensor {name!r}: the network has {_describe(tensor)}, stored is {_describe(found)}; "
            "weights and plan belong to different runs, or model= is another network"
        )


def _describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _check_signature(model: nn.Module, plan: Plan) -> None:
    if not plan.signature or plan_signature(model) == plan.signature:
        return
    expected, found = dict(plan.tensors), dict(tensor_shapes(model))
    for name in sorted(expected.keys() | found.keys()) if expected else ():
        if expected.get(name) != found.get(name):
            raise PlanError(
                f"tensor {name!r}: the plan was made for a network with "
                f"{_shape(expected.get(name))}, this "
                f"{type(model).__name__} has {_shape(found.get(name))}; give the network that the "
                "plan was made for"
            )
    raise PlanError(
        f"the plan was made for a network with other tensor names or shapes than this "
        f"{type(model).__name__}; give the network that the plan was made for"
    )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "no such tensor" if shape is None else f"shape {shape}"
