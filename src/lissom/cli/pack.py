"""``lissom pack``: the result of a run as one small file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from lissom.errors import RecipeError


def pack(
    folder: Annotated[
        Path, typer.Argument(help="Folder that lissom compress wrote.", metavar="DIR")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The packed file; DIR/model.lsm by default.", metavar="FILE")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="Most bytes: 40kB, or 25x of the original. Quantized weights become cheaper until "
            "it fits; needs --out. Without it no value changes."
        ),
    ] = None,
) -> None:
    """Pack plan and weights of a run into one file.

    lissom.load(FILE) gives the network back to the last bit. With --size it is another network than
    DIR's, which stays as it is: measure it before you use it.
    """
    if size is not None and out is None:
        raise RecipeError(
            "--size: gives another network than that of DIR, whose model.lsm its report describes; "
            "expected --out FILE beside it"
        )
    from lissom.artifacts import PACKED, pack_folder
    from lissom.export.files import write_files

    found = pack_folder(folder, None if size is None else _bytes(size, folder))
    packed = found.packed
    path = folder / PACKED if out is None else out
    write_files({path: packed.content})
    typer.echo(
        f"{path}: {len(packed.content):,} bytes (levels {packed.level_bytes:,}, scales and other "
        f"values {packed.stored_bytes:,}, header {packed.header_bytes:,})"
    )
    if found.errors:
        typer.echo(_changes(found.errors))


def _bytes(size: str, folder: Path) -> int:
    """Read a size; one in units of the original needs the report of the run."""
    from lissom.artifacts import load_report
    from lissom.plan.budget import Budget, Meaning
    from lissom.plan.cost import Cost

    budget = Budget.parse({"size": size})
    assert budget.size is not None
    relative = budget.size.meaning is Meaning.REMAINING
    params = load_report(folder).original.params if relative else 0
    limit = budget.bytes_limit(Cost(params=params))
    assert limit is not None
    return limit


def _changes(errors: Mapping[str, float]) -> str:
    worst = max(errors, key=errors.__getitem__)
    mean = sum(errors.values()) / len(errors)
    return (
        f"weights of {len(errors)} tensors changed: relative squared error {mean:.2%} on average, "
        f"{errors[worst]:.2%} at most ({worst})"
    )
