"""The commands and what becomes of their errors: 2 for bad input, 130 for Ctrl-C."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from lissom.cli.bench import bench
from lissom.cli.compress import compress
from lissom.cli.demo import demo
from lissom.cli.export import export
from lissom.cli.inspect import inspect
from lissom.cli.pack import pack
from lissom.cli.report import report
from lissom.cli.unpack import unpack
from lissom.errors import LissomError
from lissom.progress import process_number, speaks

BAD_INPUT = 2
INTERRUPTED = 130

app = typer.Typer(
    name="lissom",
    help="Make trained PyTorch convolutional networks small and fast, and say what was done.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
)


def _explained(command: Callable[..., None]) -> Callable[..., None]:
    """Turn what a user can mend into one message and an exit code; the rest keeps its traceback."""

    @functools.wraps(command)
    def run_command(*arguments: object, **options: object) -> None:
        try:
            command(*arguments, **options)
        except LissomError as error:
            # Several processes may all find the same fault; one of them may find it alone.
            who = "" if speaks() else f"process {process_number()}: "
            typer.echo(f"{who}error: {error}", err=True)
            raise typer.Exit(BAD_INPUT) from None
        except KeyboardInterrupt:
            typer.echo("interrupted; continue a compression with --resume", err=True)
            raise typer.Exit(INTERRUPTED) from None

    return run_command


for command in (compress, inspect, bench, report, export, pack, unpack, demo):
    app.command()(_explained(command))


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"lissom {version('lissom')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    del version


def run(arguments: Sequence[str]) -> int:
    """Run one command and give the exit code: 0, 2 for bad input, 130 after Ctrl-C.

    Args:
        arguments: As on the command line, without the program's name.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal that can't show a sign must not end a long run.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        app(list(arguments), prog_name="lissom")
    except SystemExit as finished:
        return finished.code if isinstance(finished.code, int) else 0
    return 0
