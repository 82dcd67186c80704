"""``lissom demo``: the main job on embedded real data."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Annotated

import typer


def demo(
    method: Annotated[str, typer.Option(help="hmc, nahc, ahc, ahc_sum, edp, ajc or int8.")] = "hmc",
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results; default: a new lissom-demo.")
    ] = None,
) -> None:
    """Run the main job on embedded data.

    Trains a small network on scikit-learn's digits, halves its MACs (ajc: makes its file an eighth
    of its weights), prints the report.
    """
    from lissom.cli.console import say, show
    from lissom.pipeline.demo import run_demo
    from lissom.report.terminal import layout

    folder = out or _new_folder()
    result = run_demo(method, folder, say=say)
    show(layout(result.report))
    typer.echo(f"\nWritten: {folder}")


def _new_folder() -> Path:
    names = (Path("lissom-demo" if number == 1 else f"lissom-demo-{number}") for number in count(1))
    return next(path for path in names if not path.exists())
