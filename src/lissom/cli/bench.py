"""``lissom bench``: the original and the compressed network beside each other in one runtime."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lissom.cli import options
from lissom.errors import RecipeError

if TYPE_CHECKING:
    from torch import nn

    from lissom.measure.latency import Conditions


def bench(
    folder: Annotated[
        Path, typer.Argument(help="Folder that lissom compress wrote.", metavar="DIR")
    ],
    runtime: options.Runtime = None,
    batch: options.Batch = 1,
    threads: options.Threads = 1,
    runs: Annotated[int, typer.Option(help="Timed calls per network.", min=2)] = 50,
    model: options.Model = None,
) -> None:
    """Time the original and the compressed network.

    They take turns in one runtime, with the file in int8 where there is one. --model is only
    needed for a network of your own. The original's weights are not in DIR: it runs with fresh
    ones, which takes the same time.
    """
    from lissom.artifacts import INT8, ONNX, load
    from lissom.cli.console import show
    from lissom.export.onnx import export_onnx
    from lissom.export.runtime import OnnxSession
    from lissom.measure.clock import RuntimeClock
    from lissom.measure.latency import latency_of
    from lissom.measure.runtime import Runnable
    from lissom.measure.runtimes import FILES
    from lissom.report.latency import layout

    conditions = _conditions(runtime or FILES[0], batch, threads, runs)
    inputs = OnnxSession(folder / ONNX).example_inputs(batch)
    original = _original(folder, model)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "original.onnx"
        export_onnx(original, inputs, path)
        files = {"original": path, "compressed": folder / ONNX, "int8": folder / INT8}
        files = {name: file for name, file in files.items() if file.is_file()}
        sizes = {name: file.stat().st_size for name, file in files.items()}
        if conditions.runtime in FILES:
            given = {name: Runnable(file=file) for name, file in files.items()}
        else:
            networks = {"original": original.eval(), "compressed": load(folder, model=original)}
            given = {name: Runnable(network) for name, network in networks.items()}
        times = RuntimeClock(conditions, inputs).run(given)
    measured = {name: latency_of(one, conditions).to_dict() for name, one in times.items()}
    show(layout(measured, {name: sizes[name] for name in measured}))


def _conditions(runtime: str, batch: int, threads: int, runs: int) -> Conditions:
    from lissom.measure.latency import Conditions

    try:
        return Conditions(batch=batch, threads=threads, runs=runs, runtime=runtime)
    except ValueError as error:
        raise RecipeError(f"--{error}") from None


def _original(folder: Path, model: str | None) -> nn.Module:
    from lissom.artifacts import build_original, load_plan
    from lissom.pipeline.recipe_run import network_of
    from lissom.recipe.recipe import ModelSection

    if model is not None:
        return network_of(ModelSection(name=model))[0]
    return build_original(load_plan(folder), folder)
