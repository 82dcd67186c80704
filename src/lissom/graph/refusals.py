"""What is not offered, and why: a refusal for every layer and action."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from torch import nn

from lissom.graph.channels import Cause
from lissom.graph.groups import Found
from lissom.graph.layers import LayerSpec, Refusal

PRUNE, DECOMPOSE, QUANTIZE = "prune", "decompose", "quantize"


def refusals(
    model: nn.Module, layers: Sequence[LayerSpec], found: Sequence[Found], notes: Sequence[str]
) -> tuple[Refusal, ...]:
    """Give a refusal for every layer and action that is not offered.

    Args:
        model: The network.
        layers: Every layer of it.
        found: Its channel groups, after the trial cuts.
        notes: Remarks on the whole network; the first says why there are no groups, if there are
            none.
    """
    offered, causes = _by_producer(found)
    ties = _ties(model)
    result: list[Refusal] = []
    for layer in layers:
        module = model.get_submodule(layer.name)
        if layer.name not in offered:
            cause = causes.get(layer.name) or _no_producer(layer, notes)
            result.append(Refusal(layer.name, PRUNE, cause.reason, cause.where, cause.remedy))
        undivided = next(_undivided(layer, module, ties), None)
        if undivided is not None:
            result.append(Refusal(layer.name, DECOMPOSE, undivided.reason, "", undivided.remedy))
        if not _has_matrix(layer):
            reason = f"only convolutions and linear layers are quantized, this is a {layer.kind}"
            result.append(Refusal(layer.name, QUANTIZE, reason))
    return tuple(result)


def _by_producer(found: Sequence[Found]) -> tuple[set[str], dict[str, Cause]]:
    offered: set[str] = set()
    causes: dict[str, Cause] = {}
    for one in found:
        for producer in one.group.producers:
            if one.group.frozen_because is None:
                offered.add(producer)
            elif one.cause is not None:
                causes.setdefault(producer, one.cause)
    return offered, causes


def _has_matrix(layer: LayerSpec) -> bool:
    return layer.kind.startswith(("conv", "linear"))


def _no_producer(layer: LayerSpec, notes: Sequence[str]) -> Cause:
    """Say why a layer that is the producer of no group has no channels to cut."""
    if not _has_matrix(layer):
        return Cause(f"a {layer.kind} is cut with the layers around it, not by itself")
    if notes:
        return Cause(notes[0])
    if layer.calls == 0:
        return Cause(
            "it never runs on the example inputs", remedy="remove it, or pass inputs that use it"
        )
    return Cause("it has a single output channel")


def _ties(model: nn.Module) -> Counter[int]:
    """Count the places that hold each parameter."""
    return Counter(id(p) for m in model.modules() for p in m._parameters.values() if p is not None)


def _undivided(layer: LayerSpec, module: nn.Module, ties: Counter[int]) -> Iterator[Cause]:
    """Give the reasons why a layer is not decomposed."""
    if type(module) not in (nn.Conv2d, nn.Linear):
        yield _foreign_class(layer, module)
        return
    weight = module._parameters.get("weight")
    if weight is None:
        yield Cause(
            "its weight is computed by a parametrization or hook",
            remedy="remove it with torch.nn.utils.parametrize.remove_parametrizations",
        )
        return
    if ties[id(weight)] > 1:
        yield Cause("its weight is shared with another layer", remedy="give each layer its own")
    if getattr(module, "groups", 1) > 1:
        yield Cause(f"it has groups={module.groups}; decomposition needs groups=1")
    if layer.calls == 0:
        yield Cause(
            "it never runs on the example inputs", remedy="remove it, or pass inputs that use it"
        )
    rows, columns = weight.shape[0], weight[0].numel()
    if rows + columns >= rows * columns:
        yield Cause(f"at {rows} x {columns} even rank 1 costs no less than the whole layer")


def _foreign_class(layer: LayerSpec, module: nn.Module) -> Cause:
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        base = "Conv2d" if isinstance(module, nn.Conv2d) else "Linear"
        return Cause(
            f"its class {type(module).__name__} changes what {base} computes",
            remedy=f"replace it with torch.nn.{base} if the two are equal",
        )
    return Cause(f"only Conv2d and Linear layers are decomposed, this is a {layer.kind}")
