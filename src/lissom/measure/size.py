"""Bytes of real files."""

from __future__ import annotations

from pathlib import Path

from lissom.errors import LissomError


def file_bytes(path: Path) -> int:
    """Give the size of a file in bytes.

    Raises:
        LissomError: There is no such file.
    """
    try:
        return path.stat().st_size
    except OSError as error:
        raise LissomError(
            f"{path}: can't read its size ({error.strerror or error}); expected a file that "
            "lissom wrote"
        ) from error
