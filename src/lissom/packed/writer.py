"""Write a packed file."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lissom.packed.frame import frame
from lissom.packed.header import (
    CHANNEL_SCALES,
    FREE_VALUES,
    ONE_SCALE,
    STORED,
    VALUES_PER_BYTE,
    Chunk,
    Entry,
    Header,
    check_entry,
)
from lissom.packed.level_chunk import level_chunk
from lissom.packed.stored_chunk import TOGETHER, most_together, narrowest, stored_chunk
from lissom.packed.tensors import DTYPES, Levels, Packable, Stored


@dataclass(frozen=True, slots=True)
class PackedFile:
    """A packed file in memory, and what its bytes are for.

    Attributes:
        content: The file.
        header_bytes: Plan, names, shapes, checksums.
        level_bytes: Levels.
        stored_bytes: Scales, and tensors that are kept as they are.
    """

    content: bytes
    header_bytes: int
    level_bytes: int
    stored_bytes: int


def pack(tensors: Mapping[str, Packable], plan: str = "") -> PackedFile:
    """Give the packed file of some tensors: the same bytes on every machine.

    float32 values that float16 or bfloat16 hold exactly are kept in those; nothing is rounded.

    Args:
        tensors: By name, in the order in which ``PackedReader`` gives them back.
        plan: plan.json's text.

    Raises:
        ValueError: A tensor can't be kept in this format: names it.
    """
    entries = tuple(_entry(name, tensor) for name, tensor in tensors.items())
    for entry in entries:
        check_entry(entry)
    chunks: list[Chunk] = []
    contents: list[bytes] = []
    for dtype in DTYPES:
        kept = [
            _kept(tensor).reshape(-1).to(dtype)
            for entry, tensor in zip(entries, tensors.values(), strict=True)
            if entry.kept_as == dtype
        ]
        for group in _groups(kept, most_together(dtype)):
            contents.append(stored_chunk(group))
            chunks.append(_chunk(contents, dtype, group))
    stored_bytes = sum(map(len, contents))
    levels = [tensor.levels for tensor in tensors.values() if isinstance(tensor, Levels)]
    for group in _groups(levels, TOGETHER):
        contents.append(level_chunk([tensor.cpu().numpy() for tensor in group]))
        chunks.append(_chunk(contents, None, group))
    head = frame(Header(plan, entries, tuple(chunks)))
    body = b"".join(contents)
    return PackedFile(head + body, len(head), len(body) - stored_bytes, stored_bytes)


def _entry(name: str, tensor: Packable) -> Entry:
    if isinstance(tensor, Stored):
        return Entry(name, tensor.shape, tensor.dtype, STORED, narrowest(tensor.values))
    if (tensor.levels == torch.iinfo(torch.int32).min).any():
        raise ValueError(f"{name}: levels must lie above -2^31")
    coding = CHANNEL_SCALES if tensor.scale.ndim else ONE_SCALE
    return Entry(name, tensor.shape, tensor.dtype, coding, narrowest(tensor.scale))


def _kept(tensor: Packable) -> Tensor:
    return tensor.values if isinstance(tensor, Stored) else tensor.scale


def _groups(tensors: Sequence[Tensor], most: int) -> Iterator[Sequence[Tensor]]:
    """Give neighbours together up to ``most`` values; a larger tensor stands alone."""
    group: list[Tensor] = []
    for tensor in tensors:
        if group and sum(one.numel() for one in group) + tensor.numel() > most:
            yield group
            group = []
        group.append(tensor)
    if group:
        yield group


def _chunk(contents: list[bytes], dtype: torch.dtype | None, group: Sequence[Tensor]) -> Chunk:
    """Describe the last content; fill it up where it says more than a reader would believe."""
    values = sum(tensor.numel() for tensor in group)
    least = -(-max(values - FREE_VALUES, 0) // VALUES_PER_BYTE)
    contents[-1] = contents[-1].ljust(least, b"\0")
    return Chunk(dtype, len(group), len(contents[-1]), zlib.crc32(contents[-1]))
