"""What the user asks for: limits on cost, size, latency and loss of quality."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Self

from lissom.errors import BudgetError
from lissom.plan.cost import Cost

_COUNTS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
_UNITS: Mapping[str, Mapping[str, float]] = {
    "params": _COUNTS,
    "macs": _COUNTS,
    "size": {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9},
    "latency": {"us": 1e-3, "ms": 1.0, "s": 1e3},
}
_EXAMPLES = {
    "params": "params=0.5 (half of them), params=10x (a tenth) or params=430k",
    "macs": "macs=0.5 (half of them), macs=4x (a quarter) or macs=62.7M",
    "size": "size=0.25 (a quarter), size=20x (a twentieth) or size=40kB",
    "latency": "latency=0.5 (half), latency=2x (half) or latency=2.5ms",
    "max_drop": "max_drop=0.5 (points of the metric)",
}
_NUMBER = re.compile(
    r"([0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)"
)


class Meaning(StrEnum):
    """How a limit's number is meant."""

    REMAINING = "remaining"  # compressed / original, in (0, 1)
    ABSOLUTE = "absolute"  # in the quantity's base unit


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that may remain of one quantity.

    Attributes:
        meaning: Whether ``value`` is a fraction of the original or absolute.
        value: The fraction, or: a count (params, macs), bytes (size), milliseconds (latency),
            points (max_drop).
        text: As the user wrote it.
    """

    meaning: Meaning
    value: float
    text: str

    def resolve(self, original: float) -> float:
        """Give the absolute limit for a network that has ``original`` of the quantity."""
        # 1e-12: 1/25 of 25 must stay 1 after the two roundings of a ratio.
        fraction = self.meaning is Meaning.REMAINING
        return original * self.value * (1 + 1e-12) if fraction else self.value


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits that must hold together, as measured on the new network; None where nothing is asked.

    Attributes:
        params: Stored parameters.
        macs: Multiply-accumulates of one sample.
        size: Bytes of the one file that ``lissom.load`` opens.
        latency: Milliseconds, median.
        max_drop: Points of the metric that may be lost (percentage points of a fraction); chosen on
            held-out data, reported on the test set.
    """

    params: Limit | None = None
    macs: Limit | None = None
    size: Limit | None = None
    latency: Limit | None = None
    max_drop: Limit | None = None

    @classmethod
    def parse(cls, given: str | Mapping[str, Any]) -> Self:
        """Read ``macs=0.5,params=25x`` or a mapping of the same keys.

        A bare number in (0, 1) is the remaining fraction, ``25x`` the compression ratio, a number
        with a unit (k, M, G; B, kB, MB, GB; us, ms, s) absolute. ``max_drop`` is in points.

        Args:
            given: The text, or key -> text or number.

        Raises:
            BudgetError: It is empty, a key is unknown or stands twice, or a value means nothing.
        """
        pairs = _split(given) if isinstance(given, str) else list(given.items())
        if not pairs:
            raise BudgetError(f"the budget is empty; expected for example {_EXAMPLES['macs']}")
        limits: dict[str, Limit] = {}
        for key, value in pairs:
            if key not in _EXAMPLES:
                raise BudgetError(
                    f"budget: unknown key {key!r}; known are {', '.join(_EXAMPLES)}, for example "
                    f"{_EXAMPLES['macs']}"
                )
            if key in limits:
                raise BudgetError(f"budget: {key} is given twice; give it once, {_EXAMPLES[key]}")
            limits[key] = _limit(key, value)
        return cls(**limits)

    def limits(self, original: Cost) -> dict[str, int]:
        """Give the absolute limits on counts, rounded down: ``params`` and ``macs`` where asked.

        Args:
            original: Cost of the original network.
        """
        asked = {"params": self.params, "macs": self.macs}
        had = {"params": original.params, "macs": original.macs}
        return {
            name: math.floor(limit.resolve(had[name]))
            for name, limit in asked.items()
            if limit is not None
        }

    def bytes_limit(self, original: Cost) -> int | None:
        """Give the most bytes that the file may have, rounded down; None where not asked.

        Fractions and ratios are of the original's parameters as float32: 4 bytes each, nothing else
        counted.

        Args:
            original: Cost of the original network.
        """
        if self.size is None:
            return None
        return math.floor(self.size.resolve(original.float_bytes))

    def met(self, original: Cost, now: Cost) -> bool:
        """Say whether the limits on counts hold; size, latency and quality are measured elsewhere.

        Args:
            original: Cost of the original network.
            now: Cost as counted on the new one.
        """
        has = {"params": now.params, "macs": now.macs}
        return all(has[name] <= limit for name, limit in self.limits(original).items())

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Give the limits that are set, as JSON-ready values: meaning, value, unit and text."""
        units = {"size": "B", "latency": "ms", "max_drop": "points"}
        given = {one.name: getattr(self, one.name) for one in fields(self)}
        return {
            name: {
                "meaning": limit.meaning.value,
                "value": limit.value,
                "unit": "" if limit.meaning is Meaning.REMAINING else units.get(name, ""),
                "text": limit.text,
            }
            for name, limit in given.items()
            if limit is not None
        }

    def __str__(self) -> str:
        given = {one.name: getattr(self, one.name) for one in fields(self)}
        return ",".join(
            f"{name}={limit.text}" for name, limit in given.items() if limit is not None
        )


def _split(text: str) -> list[tuple[str, str]]:
    pairs = []
    for part in filter(None, (one.strip() for one in text.split(","))):
        key, equals, value = part.partition("=")
        if not equals:
            raise BudgetError(
                f"budget: {part!r} is not KEY=VALUE; expected for example {_EXAMPLES['macs']}"
            )
        pairs.append((key.strip(), value.strip()))
    return pairs


def _limit(key: str, given: object) -> Limit:
    if isinstance(given, bool) or not isinstance(given, (str, int, float)):
        raise _meaningless(key, given, "a number or a text")
    text = given.strip() if isinstance(given, str) else repr(given)
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise _meaningless(key, given, "a positive number, with or without a unit")
    number, unit = float(match[1]), match[2]
    if not math.isfinite(number):
        raise _meaningless(key, given, "a finite number")
    if key == "max_drop":
        if unit:
            raise _meaningless(key, given, "points without a unit")
        return Limit(Meaning.ABSOLUTE, number, text)
    return _cost_limit(key, given, Limit(Meaning.ABSOLUTE, number, text), unit)


def _cost_limit(key: str, given: object, limit: Limit, unit: str) -> Limit:
    number, text = limit.value, limit.text
    if unit == "x":
        if number <= 1:
            raise _meaningless(key, given, "a ratio above 1x")
        return Limit(Meaning.REMAINING, 1 / number, text)
    if not unit and 0 < number < 1:
        return Limit(Meaning.REMAINING, number, text)
    units = _UNITS[key]
    # A bare 1.5 or 0 is a slip in a fraction; a bare 62745600 is a count.
    is_slip = not unit and not (number >= 1000 and number.is_integer())
    if unit not in units or is_slip:
        known = ", ".join(filter(None, units))
        raise _meaningless(key, given, f"a fraction between 0 and 1, a ratio, or a unit ({known})")
    if number == 0:
        raise _meaningless(key, given, "more than nothing")
    return Limit(Meaning.ABSOLUTE, number * units[unit], text)


def _meaningless(key: str, given: object, expected: str) -> BudgetError:
    return BudgetError(f"budget: {key}={given!s:.40}; expected {expected}: {_EXAMPLES[key]}")
