"""``lissom report``: what a run has measured, again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    folder: Annotated[
        Path, typer.Argument(help="Folder that lissom compress wrote.", metavar="DIR")
    ],
    html: Annotated[
        bool, typer.Option("--html", help="Write DIR/report.html, one page without other files.")
    ] = False,
) -> None:
    """Show the report of a run again.

    It is printed, or written as an HTML page.
    """
    from lissom.artifacts import load_report
    from lissom.cli.console import show
    from lissom.export.files import write_files
    from lissom.report.html import page
    from lissom.report.terminal import layout

    values = load_report(folder)
    if not html:
        show(layout(values))
        return
    path = folder / "report.html"
    write_files({path: page(values).encode()})
    typer.echo(path)
