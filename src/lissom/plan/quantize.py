"""The decision that the values of a weight are few levels times a scale, most of them zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import nn

from lissom.errors import PlanError, UnsupportedLayer
from lissom.plan.decision import Decision
from lissom.plan.fields import Fields
from lissom.plan.surgery import submodule

MOST_BITS = 16


@dataclass(frozen=True, slots=True)
class Quantize(Decision):
    """Say that a layer's weight is integer levels times a scale.

    The network stays as it is: its tensors hold the products, and the packed file stores levels.

    Attributes:
        layer: Name of the layer.
        bits: Of a level that is not zero, sign included: 1 + log2 of the largest magnitude, 1 to
            16. With 1, weights are -1, 0 or 1 times the scale (ternary); which ones are zero is
            the mask's to say and counted apart.
        nonzero: How many weights are not zero.
        channel_scales: Whether every output channel has a scale of its own.
    """

    kind: ClassVar[str] = "quantize"
    layer: str
    bits: int
    nonzero: int
    channel_scales: bool

    def apply(self, model: nn.Module) -> None:
        """Check that the layer has such a weight; nothing changes.

        Raises:
            PlanError: The layer is missing, ``bits`` are out of range, or the weight has fewer
                values than ``nonzero``.
            UnsupportedLayer: The layer has no weight of its own.
        """
        module = submodule(model, self.layer)
        weight = module._parameters.get("weight")
        if weight is None:
            raise UnsupportedLayer(
                f"{self.layer}: quantization needs a layer with a weight of its own, got "
                f"{type(module).__qualname__}; exclude it with --ignore {self.layer}"
            )
        for name, given, least, most in (
            ("bits", self.bits, 1, MOST_BITS),
            ("nonzero", self.nonzero, 0, weight.numel()),
        ):
            if not least <= given <= most:
                raise PlanError(
                    f"{self.layer}: {name}={given}, expected {least} to {most}; the plan belongs "
                    "to another network"
                )

    @property
    def target(self) -> str:
        """Name of the layer."""
        return self.layer

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON-ready values."""
        return {
            "layer": self.layer,
            "bits": self.bits,
            "nonzero": self.nonzero,
            "channel_scales": self.channel_scales,
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Rebuild from ``to_dict``'s output.

        Raises:
            PlanError: A field is missing, unknown or of the wrong type.
        """
        reader = Fields(cls.kind, fields)
        layer, bits, nonzero = (
            reader.text("layer"),
            reader.integer("bits"),
            reader.integer("nonzero"),
        )
        scales = reader.take("channel_scales")
        if not isinstance(scales, bool):
            raise PlanError(
                f"{cls.kind}: field 'channel_scales' must be true or false, got {scales!r:.80} "
                f"({type(scales).__name__})"
            )
        reader.finish()
        return cls(layer, bits, nonzero, scales)
