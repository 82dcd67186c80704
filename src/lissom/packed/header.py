"""The header of a packed file: plan, table of tensors, table of chunks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lissom.packed.tensors import DTYPES, FLOATS
from lissom.packed.varint import Cursor, DamagedBytes, varint

STORED, ONE_SCALE, CHANNEL_SCALES = 0, 1, 2
MOST_AXES = 32
# A chunk holds at most so many values, so that a damaged length can't ask for much memory.
FREE_VALUES = 65536
VALUES_PER_BYTE = 4096
_WIDEST_EMPTY = 1 << 20  # product of the lengths that are not 0, of a tensor without values


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor in the table.

    Attributes:
        name: In the state dict.
        shape: Of the tensor.
        dtype: Of the tensor.
        coding: STORED, ONE_SCALE or CHANNEL_SCALES.
        kept_as: Type of the stored values or of the scale.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    coding: int
    kept_as: torch.dtype

    @property
    def count(self) -> int:
        """Values in the tensor."""
        return math.prod(self.shape)

    @property
    def kept(self) -> int:
        """Values of type ``kept_as`` in the file: the tensor's, or its scales."""
        if self.coding == STORED:
            return self.count
        return 1 if self.coding == ONE_SCALE else self.shape[0]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk in the table.

    Attributes:
        kept_as: Type of its values; None for levels.
        records: Tensors in it: the next ones in the table that have such values.
        size: Bytes.
        checksum: CRC-32 of the bytes.
    """

    kept_as: torch.dtype | None
    records: int
    size: int
    checksum: int


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the chunks.

    Attributes:
        plan: plan.json's text, or "".
        entries: In the order of the file.
        chunks: In the order of the file.
    """

    plan: str
    entries: tuple[Entry, ...]
    chunks: tuple[Chunk, ...]

    def to_bytes(self) -> bytes:
        """Give the bytes that ``from_bytes`` reads."""
        plan = self.plan.encode()
        parts = [varint(len(plan)), plan, varint(len(self.entries))]
        before = b""
        for entry in self.entries:
            name = entry.name.encode()
            parts.append(_entry_bytes(entry, before))
            before = name
        parts.append(varint(len(self.chunks)))
        for chunk in self.chunks:
            kind = 0 if chunk.kept_as is None else 1 + DTYPES.index(chunk.kept_as)
            parts.append(bytes([kind]) + varint(chunk.records) + varint(chunk.size))
        parts += [chunk.checksum.to_bytes(4, "little") for chunk in self.chunks]
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, content: bytes) -> Header:
        """Read a header and check that it agrees with itself.

        Raises:
            DamagedBytes: It can't have been written by ``to_bytes``.
        """
        cursor = Cursor(content, "header")
        plan = _text(cursor.take(cursor.varint()), "the plan")
        entries: list[Entry] = []
        before = b""
        for _ in range(cursor.varint()):
            entry = _read_entry(cursor, before)
            entries.append(entry)
            before = entry.name.encode()
        if len({entry.name for entry in entries}) < len(entries):
            raise DamagedBytes("header: expected every tensor once")
        heads = [_read_chunk(cursor) for _ in range(cursor.varint())]
        chunks = [
            Chunk(kept_as, records, size, int.from_bytes(cursor.take(4), "little"))
            for kept_as, records, size in heads
        ]
        if cursor.rest():
            raise DamagedBytes("header: expected nothing after the chunks' checksums")
        return cls(plan, tuple(entries), tuple(chunks))


def records(entries: Sequence[Entry], kept_as: torch.dtype | None) -> list[Entry]:
    """Give the entries that have values of a kind in the file: levels for None."""
    if kept_as is None:
        return [entry for entry in entries if entry.coding != STORED]
    return [entry for entry in entries if entry.kept_as == kept_as]


def most_values(size: int) -> int:
    """Give how many values a chunk of ``size`` bytes may hold."""
    return FREE_VALUES + VALUES_PER_BYTE * size


def _entry_bytes(entry: Entry, before: bytes) -> bytes:
    name = entry.name.encode()
    shared = 0
    while shared < min(len(name), len(before)) and name[shared] == before[shared]:
        shared += 1
    kind = DTYPES.index(entry.kept_as) | entry.coding << 4
    return (
        varint(shared)
        + varint(len(name) - shared)
        + name[shared:]
        + bytes([kind, DTYPES.index(entry.dtype), len(entry.shape)])
        + b"".join(varint(length) for length in entry.shape)
    )


def _read_entry(cursor: Cursor, before: bytes) -> Entry:
    shared, more = cursor.varint(), cursor.varint()
    if shared > len(before):
        raise DamagedBytes(f"header: a name shares {shared} bytes with one of {len(before)}")
    name = _text(before[:shared] + cursor.take(more), "a name")
    kind, dtype, axes = cursor.byte(), cursor.byte(), cursor.byte()
    coding, kept_as = kind >> 4, kind & 15
    if coding > CHANNEL_SCALES or max(dtype, kept_as) >= len(DTYPES) or axes > MOST_AXES:
        raise DamagedBytes(f"header: {name}: expected a coding and a type of this format")
    shape = tuple(cursor.varint() for _ in range(axes))
    entry = Entry(name, shape, DTYPES[dtype], coding, DTYPES[kept_as])
    check_entry(entry)
    return entry


def check_entry(entry: Entry) -> None:
    """Check that a tensor can be kept as the table says.

    Raises:
        DamagedBytes: It can't.
    """
    if not entry.count and math.prod(filter(None, entry.shape)) > _WIDEST_EMPTY:
        raise DamagedBytes(f"header: {entry.name}: {entry.shape} is too wide for an empty tensor")
    narrow = entry.kept_as in (torch.float16, torch.bfloat16)
    if entry.coding == STORED:
        fits = entry.kept_as == entry.dtype or (narrow and entry.dtype == torch.float32)
    else:
        fits = bool(entry.shape) and entry.dtype in FLOATS
        fits = fits and (narrow or entry.kept_as == torch.float32)
    if not fits:
        raise DamagedBytes(
            f"header: {entry.name}: {entry.dtype} of shape {entry.shape} can't be kept as coding "
            f"{entry.coding} with {entry.kept_as}"
        )


def _read_chunk(cursor: Cursor) -> tuple[torch.dtype | None, int, int]:
    kind, count, size = cursor.byte(), cursor.varint(), cursor.varint()
    if kind > len(DTYPES):
        raise DamagedBytes(f"header: expected a kind of chunk up to {len(DTYPES)}, got {kind}")
    return (DTYPES[kind - 1] if kind else None), count, size


def _text(content: bytes, what: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise DamagedBytes(f"header: {what} is no UTF-8") from None
