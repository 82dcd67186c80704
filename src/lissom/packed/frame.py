"""The first bytes of a packed file, and the coded header behind them.

4 bytes magic, 1 byte version, 1 byte form of the header, then three little-endian 32-bit numbers:
bytes of the header in the file, bytes of the header, CRC-32 of all of it but itself.
"""

from __future__ import annotations

import struct
import zlib

from lissom.packed.header import Header
from lissom.packed.text import LONGEST, code_text, read_text
from lissom.packed.varint import DamagedBytes

MAGIC = b"\x89LSM"
VERSION = 3
_READABLE = (2, VERSION)  # 3 only adds a form of values
SIZE = 18
LARGEST = 1 << 28
_HEAD = struct.Struct("<4sBBII")
_PLAIN, _MODELLED = 0, 1
_TEXT_PER_BYTE = 1024


def frame(header: Header) -> bytes:
    """Give everything that stands before the first chunk.

    Raises:
        ValueError: The header is longer than the format allows.
    """
    plain = header.to_bytes()
    if len(plain) > LARGEST:
        raise ValueError(f"a header of {len(plain):,} bytes; the format allows {LARGEST:,}")
    form, coded = _PLAIN, plain
    if len(plain) <= LONGEST:
        shorter = code_text(plain)
        if len(shorter) < len(plain) <= _TEXT_PER_BYTE * len(shorter):
            form, coded = _MODELLED, shorter
    head = _HEAD.pack(MAGIC, VERSION, form, len(coded), len(plain))
    return head + struct.pack("<I", zlib.crc32(coded, zlib.crc32(head))) + coded


def header_size(head: bytes) -> int:
    """Give how many bytes follow the first ``SIZE`` before the first chunk.

    Args:
        head: The first ``SIZE`` bytes of the file, or all of a shorter one.

    Raises:
        DamagedBytes: This is no packed file of this version.
    """
    if head[:4] != MAGIC[: len(head[:4])] or not head:
        raise DamagedBytes(f"expected a packed file (first bytes {MAGIC!r}), got {head[:4]!r}")
    if len(head) > 4 and head[4] not in _READABLE:
        raise DamagedBytes(
            f"expected version {' or '.join(map(str, _READABLE))}, got {head[4]}: the file is "
            "damaged or needs another lissom"
        )
    if len(head) < SIZE:
        raise DamagedBytes(f"expected at least {SIZE} bytes, found {len(head)}")
    _, _, form, coded, plain = _HEAD.unpack(head[: _HEAD.size])
    longest = {_PLAIN: coded, _MODELLED: min(LONGEST, _TEXT_PER_BYTE * coded)}.get(form, -1)
    if plain > longest or coded > LARGEST or (form == _PLAIN and plain != coded):
        raise DamagedBytes(f"header: form {form} can't hold {plain:,} bytes in {coded:,}")
    return int(coded)


def read_frame(head: bytes, coded: bytes) -> Header:
    """Read the header.

    Args:
        head: The first ``SIZE`` bytes.
        coded: As many bytes as ``header_size`` says.

    Raises:
        DamagedBytes: The checksum or the content is wrong.
    """
    *_, form, size, plain = _HEAD.unpack(head[: _HEAD.size])
    if len(coded) < size:
        raise DamagedBytes(f"header: expected {size:,} bytes, found {len(coded):,}")
    found = zlib.crc32(coded, zlib.crc32(head[: _HEAD.size]))
    (expected,) = struct.unpack("<I", head[_HEAD.size : SIZE])
    if found != expected:
        raise DamagedBytes(f"header: expected checksum {expected:08x}, found {found:08x}")
    return Header.from_bytes(coded if form == _PLAIN else read_text(coded, plain))
