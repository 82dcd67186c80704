"""The packed file of a network: its state and the plan that led to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from lissom.errors import WeightsError
from lissom.packed.recognise import packable
from lissom.packed.tensors import Levels, Packable
from lissom.packed.writer import PackedFile, pack
from lissom.plan.plan import Plan


def packed_network(state: Mapping[str, Tensor | Levels], plan: Plan) -> PackedFile:
    """Give the packed file of a network, which ``lissom.load`` opens; no value changes.

    The bytes depend on names, values and plan alone: not on the order of ``state``, nor on whether
    a weight is given as levels or as their products.

    Args:
        state: By name what ``stored_state`` gives; a weight may also stand as its levels.
        plan: All decisions from the original on.

    Raises:
        WeightsError: A tensor is of a type that a packed file can't hold.
    """
    if plan.source is not None:  # the original's shapes can be had again
        plan = replace(plan, tensors=())
    try:
        tensors = {name: _packable(name, state[name]) for name in sorted(state)}
        return pack(tensors, plan.to_json())
    except ValueError as error:
        raise WeightsError(f"{error}; store it as another type") from None


def stored_state(model: nn.Module) -> dict[str, Tensor]:
    """Give what files keep of a network: each tensor once, under its first name, on the CPU.

    Raises:
        WeightsError: The state holds something that is not a tensor.
    """
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor):
            raise WeightsError(
                f"{name}: the network's state holds a {type(value).__name__}, and a weights file "
                "holds tensors only: keep it as an attribute that the constructor sets"
            )
        if id(value) not in seen:
            seen.add(id(value))
            tensors[name] = value.detach().cpu().contiguous()
    return tensors


def _packable(name: str, given: Tensor | Levels) -> Packable:
    # Levels may have a common divisor: what the file would find is what must be counted.
    values = given.tensor() if isinstance(given, Levels) else given
    try:
        return packable(values)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
