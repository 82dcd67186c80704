"""Which layers compute in int8, and which of them have levels already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from lissom.clock import Clock
from lissom.errors import RecipeError
from lissom.export.int8_weights import on_levels
from lissom.export.qdq import Int8Layout, layer_names, write_qdq
from lissom.extension import ModelView
from lissom.methods.int8_float import Layers, float_by_time
from lissom.plan.quantize import Quantize


def not_ignored(view: ModelView, names: Sequence[str]) -> frozenset[str]:
    """Give the layers of the file that may compute in int8.

    Raises:
        RecipeError: An ignored layer is not in the file under its name.
    """
    modules = {name.partition("#")[0] for name in names}
    for name in view.ignore - modules:
        if isinstance(view.model.get_submodule(name), (nn.Linear, nn.modules.conv._ConvNd)):
            raise RecipeError(
                f"ignore: {name} has another name in the ONNX file (a weight that another layer "
                "has, too, or a product over several axes), so that int8 can't leave it out by "
                "name; keep it float with keep_float, or leave the stage out"
            )
    return frozenset(name for name in names if name.partition("#")[0] not in view.ignore)


def on_levels_before(view: ModelView) -> frozenset[str]:
    """Name the layers whose weights are levels that a stage before has chosen."""
    before = () if view.base is None else view.base.decisions
    named = {one.layer for one in before if isinstance(one, Quantize)}
    weights = {
        name: module.weight
        for name, module in view.model.named_modules()
        if name in named and isinstance(getattr(module, "weight", None), Tensor)
    }
    return frozenset(
        name for name, weight in weights.items() if on_levels(weight.detach().cpu().numpy())
    )


def faster(view: ModelView, content: bytes, layout: Int8Layout) -> tuple[Layers, dict[str, Any]]:
    """Give the layers of a layout that stay float for time: none where slower is allowed."""
    if view.clock is None or view.allow_slower:
        return frozenset(), {}
    return faster_layers(view.clock, view.model, view.example_inputs, content, layout)


def faster_layers(
    clock: Clock,
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    content: bytes,
    layout: Int8Layout,
) -> tuple[Layers, dict[str, Any]]:
    """Choose the layers of a layout that stay float because the file is faster so.

    Args:
        clock: In int8, with one for float32 beside it.
        network: In eval mode.
        inputs: Of the network, batch in front.
        content: The network as ``write_qdq`` takes it.
        layout: Of which some layers leave.

    Returns:
        The layers, and what was measured, JSON-ready.
    """
    names = [name for name in layer_names(content) if name in layout.layers]
    return float_by_time(
        clock,
        network,
        inputs,
        names,
        lambda layers: write_qdq(content, replace(layout, layers=layers)),
    )
