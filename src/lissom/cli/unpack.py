"""``lissom unpack``: the files of a run from a packed file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lissom.cli import options
from lissom.errors import RecipeError


def unpack(
    file: Annotated[Path, typer.Argument(help="File that lissom pack wrote.", metavar="FILE")],
    to: Annotated[
        Path,
        typer.Option("--to", help="Folder for plan and weights, or a name that ends in .onnx."),
    ],
    input_shape: options.Input = None,
    model: options.Model = None,
) -> None:
    """Unpack a file into a folder, or as an ONNX file.

    An ONNX file needs --input; --model is needed with it for a network of your own.
    """
    if to.suffix == ".onnx":
        _to_onnx(file, to, input_shape, model)
        return
    for option, given in (("--input", input_shape), ("--model", model)):
        if given is not None:
            raise RecipeError(
                f"{option}: has no effect where {to} becomes a folder; drop it, or give a name "
                "that ends in .onnx"
            )
    from lissom.artifacts import unpack_file

    for name, size in unpack_file(file, to).items():
        typer.echo(f"{to / name}: {size:,} bytes")


def _to_onnx(file: Path, to: Path, input_shape: str | None, model: str | None) -> None:
    if input_shape is None:
        raise RecipeError(f"{to}: an ONNX file needs the shape of its input: --input 1x3x32x32")
    from lissom.artifacts import load
    from lissom.export.onnx import export_onnx
    from lissom.pipeline.recipe_run import inputs_of, network_of
    from lissom.recipe.recipe import ModelSection

    original = None if model is None else network_of(ModelSection(name=model))[0]
    check = export_onnx(load(file, model=original), inputs_of(input_shape), to)
    typer.echo(
        f"{to}: {check.size_bytes:,} bytes, within {check.max_difference:.1e} of torch in "
        f"{check.runtime}"
    )
