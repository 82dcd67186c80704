"""The decision that a residual branch goes as a whole: x + F(x) becomes x."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from lissom.errors import PlanError
from lissom.plan.decision import Decision
from lissom.plan.fields import Fields
from lissom.plan.surgery import replace_module, submodule


class Nothing(nn.Module):
    """Gives zeros of its input's shape: what it is added to stays as it is."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Give the zeros."""
        return torch.zeros_like(inputs)


@dataclass(frozen=True, slots=True)
class DropResidual(Decision):
    """Remove the layers of a residual branch.

    The code of the network still adds the branch's value, which is zero now; the export drops the
    addition, and what leads to it.

    Attributes:
        layers: Names of the layers in the branch but the last; they hand their input on, so that
            the last one meets the shape of what it is added to.
        last: Name of the layer whose output the branch ends in; it gives zeros.
    """

    kind: ClassVar[str] = "drop_residual"
    layers: tuple[str, ...]
    last: str

    def apply(self, model: nn.Module) -> None:
        """Replace the layers.

        Raises:
            PlanError: A layer is missing, or named twice.
        """
        names = (*self.layers, self.last)
        if len(set(names)) < len(names):
            raise PlanError(
                f"drop_residual of {self.last}: a layer is named twice among {', '.join(names)}; "
                "name each once"
            )
        for name in names:
            submodule(model, name)
        for name in self.layers:
            replace_module(model, name, nn.Identity())
        replace_module(model, self.last, Nothing())

    @property
    def target(self) -> str:
        """Name of the last layer."""
        return self.last

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON-ready values."""
        return {"layers": list(self.layers), "last": self.last}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Rebuild from ``to_dict``'s output.

        Raises:
            PlanError: A field is missing, unknown or of the wrong type.
        """
        reader = Fields(cls.kind, fields)
        layers = reader.items("layers", "a layer's name", lambda one: isinstance(one, str))
        decision = cls(layers, reader.text("last"))
        reader.finish()
        return decision
