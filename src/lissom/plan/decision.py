"""The interface of a decision: one structural change, as frozen data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

from torch import nn


class Decision(ABC):
    """One structural change to a network: names, indices, ranks, shapes; never values.

    Final subclasses are frozen, slotted dataclasses of ints, strings and tuples, so that they
    compare by value and survive JSON. ``apply`` must work on the meta device: it may slice, create
    and replace tensors, but the values of what it creates are not its business (they come with the
    weights file).
    """

    kind: ClassVar[str]
    __slots__ = ()

    @abstractmethod
    def apply(self, model: nn.Module) -> None:
        """Change ``model`` in place.

        Raises:
            PlanError: A layer or tensor that the decision names is missing or has another shape.
        """

    @property
    @abstractmethod
    def target(self) -> str:
        """Name of the layer or channel group that changes, for reports and messages."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON-ready values, without ``kind``."""

    @classmethod
    @abstractmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Rebuild from ``to_dict``'s output.

        Raises:
            PlanError: A field is missing, unknown or of the wrong type.
        """
