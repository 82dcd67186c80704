"""Where commands print: colours on a terminal, plain text of fixed width elsewhere."""

from __future__ import annotations

import sys

from rich.console import Console, RenderableType

from lissom.report.terminal import WIDTH, as_text


def show(view: RenderableType) -> None:
    """Print a view on standard output."""
    console = Console(highlight=False)
    if console.is_terminal:
        console.width = min(console.width, WIDTH)
        console.print(view)
    else:
        sys.stdout.write(as_text(view))


def say(line: str) -> None:
    """Tell the user on standard error how the work goes."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
