"""The decision that activations are rounded to eight bits, and between which values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import nn

from lissom.errors import PlanError
from lissom.plan.decision import Decision
from lissom.plan.fields import Fields

_LEAST_BITS, _MOST_BITS = 2, 8
_ENTRY = "a name and two finite numbers, low <= 0 <= high"


@dataclass(frozen=True, slots=True)
class RoundActivations(Decision):
    """Say which layers compute in int8, and which ranges their activations have.

    The network stays as it is: torch computes in float, and the ONNX file in int8 rounds. The last
    decision of a plan: what follows would change the tensors that it names.

    Attributes:
        layers: Names as the ONNX file has them: modules (``name#2`` where one is called again), and
            operators that became layers there (``pad``).
        ranges: (tensor of the ONNX file, low, high).
        reduce_range: Weights in at most 7 bits, for CPUs without VNNI.
        weight_bits: Of weights that do not lie on a grid of levels already, 2 to 8.
    """

    kind: ClassVar[str] = "round_activations"
    layers: tuple[str, ...]
    ranges: tuple[tuple[str, float, float], ...]
    reduce_range: bool = False
    weight_bits: int = 8

    def apply(self, model: nn.Module) -> None:
        """Do nothing: the names are those of a file, not of the network."""

    @property
    def target(self) -> str:
        """Say how many layers there are."""
        return f"{len(self.layers)} layers"

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON-ready values."""
        return {
            "layers": list(self.layers),
            "ranges": [list(entry) for entry in self.ranges],
            "reduce_range": self.reduce_range,
            "weight_bits": self.weight_bits,
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Rebuild from ``to_dict``'s output.

        Raises:
            PlanError: A field is missing, unknown or of the wrong type.
        """
        reader = Fields(cls.kind, fields)
        layers = reader.items("layers", "a string", lambda value: isinstance(value, str))
        ranges = reader.items("ranges", _ENTRY, _is_range)
        reduce_range = reader.take("reduce_range")
        if not isinstance(reduce_range, bool):
            raise PlanError(
                f"{cls.kind}: field 'reduce_range' must be true or false, got {reduce_range!r:.80}"
            )
        bits = reader.integer("weight_bits")
        if not _LEAST_BITS <= bits <= _MOST_BITS:
            raise PlanError(f"{cls.kind}: field 'weight_bits' must be 2 to 8, got {bits}")
        reader.finish()
        entries = tuple((name, float(low), float(high)) for name, low, high in ranges)
        return cls(layers, entries, reduce_range, bits)


def _is_range(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 3 or not isinstance(value[0], str):
        return False
    low, high = value[1:]
    if any(isinstance(end, bool) or not isinstance(end, (int, float)) for end in (low, high)):
        return False
    return math.isfinite(low) and math.isfinite(high) and low <= 0 <= high
