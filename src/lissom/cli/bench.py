"""``lissom bench``: the original and the compressed network beside each other in ONNX Runtime."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lissom.cli import options

if TYPE_CHECKING:
    from torch import nn


def bench(
    folder: Annotated[
        Path, typer.Argument(help="Folder that lissom compress wrote.", metavar="DIR")
    ],
    batch: options.Batch = 1,
    threads: options.Threads = 1,
    runs: Annotated[int, typer.Option(help="Timed calls per network.", min=2)] = 50,
    model: options.Model = None,
) -> None:
    """Time the original and the compressed network.

    They take turns in ONNX Runtime. --model is only needed for a network of your own. The
    original's weights are not in DIR: it runs with fresh ones, which takes the same time.
    """
    from lissom.artifacts import ONNX
    from lissom.cli.console import show
    from lissom.export.onnx import export_onnx
    from lissom.export.runtime import OnnxSession
    from lissom.measure.latency import Conditions, onnx_latency
    from lissom.report.latency import layout

    inputs = OnnxSession(folder / ONNX).example_inputs(batch)
    conditions = Conditions(batch=batch, threads=threads, runs=runs)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "original.onnx"
        export_onnx(_original(folder, model), inputs, path)
        files = {"original": path, "compressed": folder / ONNX}
        sizes = {name: file.stat().st_size for name, file in files.items()}
        measured = onnx_latency(files, inputs, conditions)
    show(layout({name: value.to_dict() for name, value in measured.items()}, sizes))


def _original(folder: Path, model: str | None) -> nn.Module:
    from lissom.artifacts import build_original, load_plan
    from lissom.pipeline.recipe_run import network_of
    from lissom.recipe.recipe import ModelSection

    if model is not None:
        return network_of(ModelSection(name=model))[0]
    return build_original(load_plan(folder), folder)
