"""Dataclasses to JSON types and back, with messages that name the field."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar

from lissom.errors import LissomError

T = TypeVar("T")


def plain(value: Any) -> Any:
    """Give ``value`` in JSON types: objects, lists, numbers; NaN and infinity become None.

    Raises:
        TypeError: Something else than dataclasses, mappings, sequences, strings, numbers and None.
    """
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    raise TypeError(
        f"a {type(value).__name__} has no place in a report: give numbers, strings, lists and dicts"
    )


class Fields:
    """A JSON object that is being read, and its place in the file for messages."""

    def __init__(self, content: Any, place: str) -> None:
        if not isinstance(content, Mapping):
            raise LissomError(
                f"{place}: expected an object with named fields, found {type(content).__name__}"
            )
        self._content = content
        self.place = place

    def need(self, name: str) -> Any:
        """Give the field ``name``.

        Raises:
            LissomError: It is not there.
        """
        if name not in self._content:
            raise LissomError(
                f"{self.place}: the field {name!r} is missing; see docs/report-schema.md"
            )
        return self._content[name]

    def get(self, name: str, default: Any) -> Any:
        """Give the field ``name``, or ``default`` if it is not there."""
        return self._content.get(name, default)

    def section(self, name: str) -> Fields:
        """Give the object called ``name``."""
        return Fields(self.need(name), f"{self.place}.{name}")

    def sections(self, name: str) -> list[Fields]:
        """Give the objects of the list called ``name``; none if it is not there."""
        return [
            Fields(row, f"{self.place}.{name}[{i}]") for i, row in enumerate(self.get(name, ()))
        ]

    def into(self, cls: type[T], **given: Any) -> T:
        """Make a ``cls`` of the fields that it knows; ``given`` goes before what the file says."""
        values: dict[str, Any] = dict(given)
        for field in fields(cls):  # type: ignore[arg-type]
            if field.name in given:
                continue
            optional = field.default is not MISSING or field.default_factory is not MISSING
            if field.name in self._content or not optional:
                values[field.name] = self.need(field.name)
        return cls(**values)
