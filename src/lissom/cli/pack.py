"""``lissom pack``: the result of a run as one small file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pack(
    folder: Annotated[
        Path, typer.Argument(help="Folder that lissom compress wrote.", metavar="DIR")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The packed file; DIR/model.lsm by default.", metavar="FILE")
    ] = None,
) -> None:
    """Pack plan and weights of a run into one file.

    No value changes; lissom.load(FILE) gives the network back to the last bit.
    """
    from lissom.artifacts import PACKED, pack_folder
    from lissom.export.files import write_files

    packed = pack_folder(folder)
    path = folder / PACKED if out is None else out
    write_files({path: packed.content})
    typer.echo(
        f"{path}: {len(packed.content):,} bytes (levels {packed.level_bytes:,}, scales and other "
        f"values {packed.stored_bytes:,}, header {packed.header_bytes:,})"
    )
