"""Writing files so that a reader sees the old one or the whole new one, never half of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from lissom.errors import LissomError


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write all files, or none of them.

    Each goes to a temporary name in its own folder first; they are renamed when all of them are on
    the disk.

    Args:
        contents: Bytes per path; missing folders are made.

    Raises:
        LissomError: The disk is full or the folder can't be written to.
    """
    temporary: dict[Path, Path] = {}
    try:
        for path, content in contents.items():
            temporary[path] = path.with_name(f".{path.name}.{os.getpid()}.partial")
            with _explained(path, len(content)):
                path.parent.mkdir(parents=True, exist_ok=True)
                _write(temporary[path], content)
        for path, partial in temporary.items():
            with _explained(path, len(contents[path])):
                partial.replace(path)
    finally:
        for partial in temporary.values():
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _explained(path: Path, size: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LissomError(
            f"{path}: could not write {size:,} bytes ({error.strerror or error}); nothing was "
            "half-written: free some space or choose another folder, then run the command again"
        ) from error
