"""Integers of any length in bytes, and a cursor that never reads past the end."""

from __future__ import annotations

_MOST_BYTES = 9


class DamagedBytes(ValueError):  # noqa: N818  (a state of the data, caught inside this room)
    """The bytes end early or say something impossible."""


def varint(value: int) -> bytes:
    """Give a non-negative integer in groups of seven bits, lowest first; 128 marks 'more'."""
    if value < 0:
        raise ValueError(f"a varint is not negative, got {value}")
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def zigzag(value: int) -> int:
    """Give 0, 1, 2, 3, 4, ... for 0, -1, 1, -2, 2, ..."""
    return 2 * value if value >= 0 else -2 * value - 1


def unzigzag(value: int) -> int:
    """Undo ``zigzag``."""
    return -(value + 1 >> 1) if value & 1 else value >> 1


class Cursor:
    """Reads bytes from left to right.

    Args:
        content: What to read.
        what: Its name, for messages.
    """

    def __init__(self, content: bytes, what: str) -> None:
        self._content = content
        self._what = what
        self._at = 0

    def take(self, count: int) -> bytes:
        """Give the next bytes.

        Raises:
            DamagedBytes: There are fewer.
        """
        left = len(self._content) - self._at
        if count > left:
            raise DamagedBytes(f"{self._what}: expected {count:,} more bytes, found {left:,}")
        self._at += count
        return self._content[self._at - count : self._at]

    def byte(self) -> int:
        """Give the next byte as a number."""
        return self.take(1)[0]

    def varint(self) -> int:
        """Give the next integer.

        Raises:
            DamagedBytes: It is longer than 63 bits, or the bytes end.
        """
        value = 0
        for place in range(_MOST_BYTES):
            byte = self.byte()
            value |= (byte & 127) << 7 * place
            if byte < 128:
                return value
        raise DamagedBytes(f"{self._what}: expected an integer of at most 63 bits")

    def rest(self) -> bytes:
        """Give all bytes that are left."""
        return self.take(len(self._content) - self._at)
