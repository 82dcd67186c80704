"""Read the fields of a decision from JSON, with messages that name kind and field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lissom.errors import PlanError


class Fields:
    """The fields of one decision as JSON gave them; each is taken once, none may be left."""

    def __init__(self, kind: str, values: object) -> None:
        if not isinstance(values, dict):
            raise PlanError(f"{kind}: expected an object of fields, got {type(values).__name__}")
        self._kind = kind
        self._left: dict[str, Any] = dict(values)

    def text(self, name: str) -> str:
        """Take a string.

        Raises:
            PlanError: It is missing or something else.
        """
        value = self.take(name)
        if not isinstance(value, str):
            raise self._wrong(name, "a string", value)
        return value

    def integer(self, name: str) -> int:
        """Take an integer.

        Raises:
            PlanError: It is missing or something else.
        """
        value = self.take(name)
        if not is_integer(value):
            raise self._wrong(name, "an integer", value)
        return value

    def integers(self, name: str) -> tuple[int, ...]:
        """Take a list of integers.

        Raises:
            PlanError: It is missing or something else.
        """
        return self.items(name, "an integer", is_integer)

    def items(self, name: str, what: str, is_valid: Callable[[Any], bool]) -> tuple[Any, ...]:
        """Take a list whose entries are ``what``, as ``is_valid`` says.

        Raises:
            PlanError: It is missing, no list, or an entry is invalid.
        """
        value = self.take(name)
        if not isinstance(value, list):
            raise self._wrong(name, "a list", value)
        for position, entry in enumerate(value):
            if not is_valid(entry):
                raise self._wrong(f"{name}[{position}]", what, entry)
        return tuple(value)

    def take(self, name: str) -> Any:
        """Take a field of any type.

        Raises:
            PlanError: It is missing.
        """
        if name not in self._left:
            raise PlanError(
                f"{self._kind}: field {name!r} is missing; the plan file is damaged or written by "
                "hand, "
                "make it anew with `lissom compress`"
            )
        return self._left.pop(name)

    def finish(self) -> None:
        """Check that every field was taken.

        Raises:
            PlanError: One was not.
        """
        if self._left:
            raise PlanError(
                f"{self._kind}: unknown field {next(iter(self._left))!r}; the plan was written by "
                "another "
                "version of lissom, use that one or make the plan anew"
            )

    def _wrong(self, name: str, expected: str, value: object) -> PlanError:
        return PlanError(
            f"{self._kind}: field {name!r} must be {expected}, got {value!r:.80} "
            f"({type(value).__name__})"
        )


def is_integer(value: object) -> bool:
    """Say whether ``value`` is an integer and no boolean (JSON's true is no 1)."""
    return isinstance(value, int) and not isinstance(value, bool)
