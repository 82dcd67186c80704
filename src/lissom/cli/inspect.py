"""``lissom inspect``: every layer, and what could be done to it."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from lissom.cli import options
from lissom.errors import RecipeError


def inspect(
    model: options.Model = None,
    input_shape: options.Input = None,
    weights: options.Weights = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what can be done to each layer.

    Can it be pruned, decomposed, (later) quantized? If not, why, and what to change.
    """
    if model is None or input_shape is None:
        raise RecipeError(
            "inspect needs a network and the shape of its input: "
            "lissom inspect --model torchvision:resnet50 --input 1x3x224x224"
        )
    from lissom.cli.console import show
    from lissom.graph.capture import capture
    from lissom.pipeline.recipe_run import inputs_of, network_of
    from lissom.recipe.recipe import ModelSection
    from lissom.report.inspection import inspection, layout

    inputs = inputs_of(input_shape)
    network, _ = network_of(ModelSection(name=model, weights=weights))
    found = inspection(model, capture(network.eval(), inputs))
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=1))
    else:
        show(layout(found))
