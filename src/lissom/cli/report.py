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
    figures: Annotated[
        bool,
        typer.Option(
            "--figures",
            help="Write DIR/figures: layers.svg and, where measured, sensitivities.svg.",
        ),
    ] = False,
) -> None:
    """Show the report of a run again.

    It is printed, or written as an HTML page, or its charts as files.
    """
    from lissom.artifacts import load_report
    from lissom.cli.console import show
    from lissom.export.files import write_files
    from lissom.report.drawings import drawings
    from lissom.report.html import page
    from lissom.report.terminal import layout

    values = load_report(folder)
    if not (html or figures):
        show(layout(values))
        return
    written = {folder / "report.html": page(values)} if html else {}
    if figures:
        (folder / "figures").mkdir(exist_ok=True)
        written |= {folder / "figures" / name: svg for name, svg in drawings(values).items()}
    write_files({path: text.encode() for path, text in written.items()})
    for path in written:
        typer.echo(path)
