"""What each layer is and costs, seen by running the network once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from lissom.errors import ModelError
from lissom.graph.coupling import owner_of
from lissom.graph.layers import LayerSpec
from lissom.graph.trace import Program, undisturbed
from lissom.plan.cost import Cost

# The first class that fits gives the kind; anything else is called by its class name.
_KINDS: tuple[tuple[tuple[type[nn.Module], ...], str], ...] = (
    ((nn.Conv1d,), "conv1d"),
    ((nn.Conv2d,), "conv2d"),
    ((nn.Conv3d,), "conv3d"),
    ((nn.ConvTranspose1d,), "conv_transpose1d"),
    ((nn.ConvTranspose2d,), "conv_transpose2d"),
    ((nn.ConvTranspose3d,), "conv_transpose3d"),
    ((nn.Linear,), "linear"),
    ((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm), "batch_norm"),
    ((nn.GroupNorm,), "group_norm"),
    ((nn.LayerNorm,), "layer_norm"),
    ((nn.PReLU,), "prelu"),
)
_MACS_OF = ("conv", "linear")


# Whoever measures layers reads their input at its place.
_BY_PLACE = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._BatchNorm)


@dataclass(slots=True)
class Sighting:
    """What a hook saw of one module: shapes at the first call, and the number of calls."""

    input_shape: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()
    calls: int = 0
    macs: int = 0


@dataclass(frozen=True, slots=True)
class Observation:
    """One run of the network.

    Attributes:
        outputs: What it returned.
        sightings: By module name, in the order of the first calls.
    """

    outputs: Any
    sightings: dict[str, Sighting] = field(default_factory=dict)


def kind_of(module: nn.Module) -> str:
    """Give the kind of a layer, as in ``LayerSpec.kind``."""
    for types, kind in _KINDS:
        if isinstance(module, types):
            return kind
    return type(module).__name__


def observe(model: nn.Module, inputs: tuple[Tensor, ...]) -> Observation:
    """Run the network once with hooks on every module that owns parameters.

    Args:
        model: A private copy, in the mode to look at.
        inputs: A batch of two or more.

    Raises:
        ModelError: The network does not run on the inputs, or hands a layer its input by name.
    """
    sightings: dict[str, Sighting] = {}
    handles = []
    for name, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            before = _before(sightings, name)
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(_after(sightings, name)))
    try:
        with torch.no_grad(), undisturbed():
            outputs = model(*inputs)
    except ModelError:
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
        raise ModelError(
            f"{type(model).__name__} does not run on example_inputs of shapes {shapes} "
            f"({type(error).__name__}: {error}); pass inputs that the network accepts"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return Observation(outputs, sightings)


def _before(sightings: dict[str, Sighting], name: str) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        if not inputs and named and isinstance(module, _BY_PLACE):
            first = next(iter(named))
            raise ModelError(
                f"{name}: the network hands it {first} by name; call it by place: "
                f"self.{name}({first}) instead of self.{name}({first}={first})"
            )
        seen = sightings.setdefault(name, Sighting())
        if not seen.calls:
            seen.input_shape = _first_shape(inputs)
        seen.calls += 1

    return hook


def _after(sightings: dict[str, Sighting], name: str) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        seen = sightings[name]
        if seen.calls == 1:
            seen.output_shape = _first_shape(output)
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and kind_of(module).startswith(_MACS_OF):
            rows = seen.input_shape if "transpose" in kind_of(module) else _first_shape(output)
            positions = torch.Size(_first_shape(inputs) if "transpose" in kind_of(module) else rows)
            count = positions.numel()
            seen.macs += count * (weight.numel() // weight.shape[0])

    return hook


def _first_shape(value: Any) -> tuple[int, ...]:
    """Give the shape of the first tensor in nested containers, without batch."""
    if isinstance(value, Tensor):
        return tuple(value.shape[1:])
    inner = value.values() if isinstance(value, dict) else value
    if isinstance(value, (tuple, list, dict)):
        return next((shape for v in inner if (shape := _first_shape(v))), ())
    return ()


def layer_specs(
    model: nn.Module, seen: dict[str, Sighting], program: Program | None, batch: int
) -> tuple[LayerSpec, ...]:
    """Give a LayerSpec for every module that owns parameters; those that never ran come last.

    Args:
        model: The network.
        seen: From ``observe`` in eval mode.
        program: The exported program; without it MACs come from the hooks alone.
        batch: Batch size of the program.
    """
    macs, uses = operator_macs(program, batch) if program else (_hook_macs(seen), Counter())
    counted: set[int] = set()
    specs: dict[str, LayerSpec] = {}
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if not own:
            continue
        new = {id(p): p.numel() for p in own if id(p) not in counted}
        counted |= new.keys()
        params = sum(new.values())
        sighting = seen.get(name, Sighting(calls=uses[name]))
        specs[name] = LayerSpec(
            name=name,
            kind=kind_of(module),
            input_shape=sighting.input_shape,
            output_shape=sighting.output_shape,
            calls=sighting.calls,
            cost=Cost(params=params, macs=macs[name], bits=32 * params),
        )
    ran = [specs[name] for name in seen if name in specs]
    return (*ran, *(spec for name, spec in specs.items() if name not in seen))


def _hook_macs(seen: dict[str, Sighting]) -> Counter[str]:
    return Counter({name: sighting.macs for name, sighting in seen.items()})


def operator_macs(program: Program, batch: int) -> tuple[Counter[str], Counter[str]]:
    """Give the MACs of one sample, and the number of operators with MACs, by layer name."""
    macs: Counter[str] = Counter()
    uses: Counter[str] = Counter()
    for node, count in node_macs(program, batch).items():
        macs[owner_of(node, program)] += count
        uses[owner_of(node, program)] += 1
    return macs, uses


def node_macs(program: Program, batch: int) -> dict[fx.Node, int]:
    """Give the MACs of one sample for every convolution and linear operator."""
    per_sample = set(program.inputs)
    found: dict[fx.Node, int] = {}
    for node in program.nodes:
        if per_sample.intersection(node.all_input_nodes):
            per_sample.add(node)
        name = getattr(getattr(node.target, "_schema", None), "name", "")
        if name.partition("::")[2].startswith(_MACS_OF):
            x, weight = (_shaped(argument) for argument in node.args[:2])
            positions = x if "transpose" in name else node.meta["val"]
            total = positions.numel() * (weight.numel() // weight.shape[0])
            found[node] = total // batch if node in per_sample else total
    return found


def _shaped(argument: Any) -> Tensor:
    """Give the tensor (of the exporter, without values) that a node stands for."""
    return argument.meta["val"]
