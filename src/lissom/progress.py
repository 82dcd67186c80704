"""Progress of long work: a bar with time left on a terminal, silence elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def process_number() -> int:
    """Give the number of this process among those that train together, from 0."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))


def speaks() -> bool:
    """Tell whether this process talks to the user: of several the first one does."""
    return process_number() == 0


class Meter(Protocol):
    """What a piece of long work reports to."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Say that ``steps`` more are done; ``note`` replaces the text behind the bar."""


_shown: list[Progress] = []


class _Bar:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def advance(self, steps: int = 1, note: str = "") -> None:
        task = self._progress.task_ids[0]
        self._progress.update(
            task, advance=steps, note=note or self._progress.tasks[0].fields["note"]
        )


class _Silence:
    def advance(self, steps: int = 1, note: str = "") -> None:
        del steps, note


@contextmanager
def meter(description: str, total: int | None) -> Iterator[Meter]:
    """Show a bar on standard error; nothing where none can be seen, or within another one.

    Args:
        description: In front of the bar.
        total: Steps; None: nobody knows how many.
    """
    console = Console(stderr=True)
    if _shown or not (console.is_terminal and speaks()):
        yield _Silence()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(description, total=total, note="")
        _shown.append(progress)
        try:
            yield _Bar(progress)
        finally:
            _shown.remove(progress)
