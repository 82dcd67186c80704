"""Read a packed file: nothing is believed before it was checked."""

from __future__ import annotations

import io
import zlib
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO, Self

import torch
from torch import Tensor

from lissom.errors import PackedFileError
from lissom.packed.frame import SIZE, header_size, read_frame
from lissom.packed.header import (
    CHANNEL_SCALES,
    STORED,
    Chunk,
    Entry,
    Header,
    most_values,
    records,
)
from lissom.packed.level_chunk import read_level_chunk
from lissom.packed.stored_chunk import read_stored_chunk
from lissom.packed.tensors import DTYPES, Levels, Packable, Stored
from lissom.packed.varint import DamagedBytes


class PackedReader:
    """A packed file whose header was read and found to fit the file's length.

    Args:
        file: Open for reading, at its beginning; it stays open as long as tensors are read.
        name: For messages.

    Raises:
        PackedFileError: It is no packed file, or damaged.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        try:
            head = file.read(SIZE)
            coded = header_size(head)
            self._start = SIZE + coded
            self._header = read_frame(head, file.read(min(coded, size)))
            _check(self._header, size - self._start)
        except ValueError as error:
            raise self._error(str(error)) from None

    @classmethod
    def from_bytes(cls, content: bytes, name: str = "packed file") -> Self:
        """Read a packed file that is in memory."""
        return cls(io.BytesIO(content), name)

    @property
    def plan(self) -> str:
        """plan.json's text."""
        return self._header.plan

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The tensors: names, shapes and types."""
        return self._header.entries

    def promised(self) -> dict[str, Tensor]:
        """Give tensors of the shapes and types that the file says it holds, without values."""
        return {
            entry.name: torch.empty(entry.shape, dtype=entry.dtype, device="meta")
            for entry in self.entries
        }

    def packables(self) -> Iterator[tuple[str, Packable]]:
        """Give every tensor as it was packed; not more than one chunk of levels is in memory.

        Raises:
            PackedFileError: A chunk is damaged.
        """
        scales: dict[str, Tensor] = {}
        self._file.seek(self._start)
        for number, (chunk, group) in enumerate(assigned(self._header), 1):
            content = self._content(number, chunk)
            try:
                if chunk.kept_as is None:
                    yield from _levels(content, group, scales)
                else:
                    yield from _stored(content, chunk.kept_as, group, scales)
            except ValueError as error:
                raise self._error(f"chunk {number}: {error}") from None
            except MemoryError:
                values = sum(entry.count for entry in group)
                raise self._error(
                    f"chunk {number}: claims {values:,} values, more than memory holds"
                ) from None

    def tensors(self) -> dict[str, Tensor]:
        """Give the values of every tensor.

        Raises:
            PackedFileError: A chunk is damaged.
        """
        found = {name: packable.tensor() for name, packable in self.packables()}
        return {entry.name: found[entry.name] for entry in self.entries}

    def _content(self, number: int, chunk: Chunk) -> bytes:
        content = self._file.read(chunk.size)
        if len(content) < chunk.size:
            raise self._error(
                f"chunk {number}: expected {chunk.size:,} bytes, found {len(content):,}"
            )
        found = zlib.crc32(content)
        if found != chunk.checksum:
            raise self._error(
                f"chunk {number}: expected checksum {chunk.checksum:08x}, found {found:08x}"
            )
        return content

    def _error(self, reason: str) -> PackedFileError:
        return PackedFileError(f"{self._name}: {reason}; copy it again from where it was made")


def assigned(header: Header) -> list[tuple[Chunk, list[Entry]]]:
    """Give each chunk with the entries that have values in it.

    Raises:
        DamagedBytes: A value is in no chunk, or a chunk has none.
    """
    queues = {kind: deque(records(header.entries, kind)) for kind in (None, *DTYPES)}
    pairs = []
    for number, chunk in enumerate(header.chunks, 1):
        queue = queues[chunk.kept_as]
        if not 1 <= chunk.records <= len(queue):
            raise DamagedBytes(
                f"chunk {number}: expected 1 to {len(queue)} tensors, got {chunk.records}"
            )
        pairs.append((chunk, [queue.popleft() for _ in range(chunk.records)]))
    left = next((queue[0] for queue in queues.values() if queue), None)
    if left is not None:
        raise DamagedBytes(f"{left.name}: expected a chunk with its values")
    return pairs


def _check(header: Header, size: int) -> None:
    """Check the header against the length of the file, before anything is made of it."""
    expected = sum(chunk.size for chunk in header.chunks)
    if expected != size:
        raise DamagedBytes(f"expected {expected:,} bytes after the header, found {size:,}")
    for number, (chunk, group) in enumerate(assigned(header), 1):
        levels = chunk.kept_as is None
        values = sum(entry.count if levels else entry.kept for entry in group)
        if values > most_values(chunk.size):
            raise DamagedBytes(
                f"chunk {number}: {chunk.size:,} bytes can't hold {values:,} values; expected at "
                f"most {most_values(chunk.size):,}"
            )


def _stored(
    content: bytes, kept_as: torch.dtype, group: list[Entry], scales: dict[str, Tensor]
) -> Iterator[tuple[str, Packable]]:
    """Give the tensors of a chunk; what is a scale waits for its levels."""
    counts = [entry.kept for entry in group]
    values = torch.split(read_stored_chunk(content, counts, kept_as), counts)
    for entry, part in zip(group, values, strict=True):
        if entry.coding == STORED:
            yield entry.name, Stored(part.reshape(entry.shape).to(entry.dtype, copy=True))
        else:
            scale = part.to(torch.float32, copy=True)
            scales[entry.name] = scale if entry.coding == CHANNEL_SCALES else scale.reshape(())


def _levels(
    content: bytes, group: list[Entry], scales: dict[str, Tensor]
) -> Iterator[tuple[str, Packable]]:
    found = read_level_chunk(content, [entry.shape for entry in group])
    for entry, levels in zip(group, found, strict=True):
        if entry.name not in scales:
            raise DamagedBytes(f"{entry.name}: expected its scale before its levels")
        yield entry.name, Levels(torch.from_numpy(levels), scales.pop(entry.name), entry.dtype)
