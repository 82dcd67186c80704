"""The decision that removes channels."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Self

from torch import nn

from lissom.errors import PlanError
from lissom.plan.decision import Decision
from lissom.plan.fields import Fields, is_integer
from lissom.plan.surgery import axis_size, slice_axis


@dataclass(frozen=True, slots=True)
class AxisCut:
    """One index list and every axis that it applies to.

    Attributes:
        keep: Indices to keep, strictly increasing.
        size: Length of the axes before the cut.
        axes: (tensor name, axis) pairs; each axis has length ``size``. The name may be that of a
            channel-map module (axis 0: output, 1: input).
        groups: Convolution groups if the axes are input axes of grouped convolutions: ``size`` and
            ``keep`` then run over all input channels, equally many kept per group. 1 elsewhere.
    """

    keep: tuple[int, ...]
    size: int
    axes: tuple[tuple[str, int], ...]
    groups: int = 1

    def __post_init__(self) -> None:
        increasing = all(a < b for a, b in pairwise(self.keep))
        if not self.keep or not increasing or self.keep[0] < 0 or self.keep[-1] >= self.size:
            raise PlanError(
                f"keep_channels: an axis of {self.size} entries keeps {len(self.keep)}; expected "
                "at least one "
                f"index, strictly increasing, from 0 to {self.size - 1}"
            )
        if self.groups < 1 or self.size % self.groups:
            raise PlanError(
                f"keep_channels: {self.size} channels can't be split into groups={self.groups} "
                "equal parts"
            )

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON-ready values."""
        return {
            "keep": list(self.keep),
            "size": self.size,
            "axes": [list(pair) for pair in self.axes],
            "groups": self.groups,
        }

    @classmethod
    def from_dict(cls, values: object) -> Self:
        """Rebuild from ``to_dict``'s output.

        Raises:
            PlanError: A field is missing, unknown or of the wrong type.
        """
        fields = Fields("keep_channels: cut", values)
        axes = fields.items("axes", "a pair of tensor name and axis", _is_axis)
        cut = cls(
            keep=fields.integers("keep"),
            size=fields.integer("size"),
            axes=tuple((name, axis) for name, axis in axes),
            groups=fields.integer("groups"),
        )
        fields.finish()
        return cut


@dataclass(frozen=True, slots=True)
class KeepChannels(Decision):
    """Keep some channels of a group and remove the others from every tensor that they touch.

    Attributes:
        group: Name of the channel group, for reports.
        cuts: What to keep, axis by axis, in order. Indices refer to the network as the decisions
            and cuts before have left it.
    """

    kind: ClassVar[str] = "keep_channels"
    group: str
    cuts: tuple[AxisCut, ...]

    def apply(self, model: nn.Module) -> None:
        """Slice every axis.

        Raises:
            PlanError: A tensor is missing or has another size than the decision was made for.
        """
        for cut in self.cuts:
            for name, axis in cut.axes:
                found = axis_size(model, name, axis, cut.groups)
                if found != cut.size:
                    raise PlanError(
                        f"{name} has {found} entries along axis {axis}, but the decision on the "
                        "channels of "
                        f"{self.group} expects {cut.size}; the plan belongs to another network"
                    )
                slice_axis(model, name, axis, cut.keep, cut.groups)

    @property
    def target(self) -> str:
        """Name of the channel group."""
        return self.group

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON-ready values."""
        return {"group": self.group, "cuts": [cut.to_dict() for cut in self.cuts]}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Rebuild from ``to_dict``'s output.

        Raises:
            PlanError: A field is missing, unknown or of the wrong type.
        """
        reader = Fields(cls.kind, fields)
        cuts = reader.items("cuts", "an object", lambda value: isinstance(value, dict))
        decision = cls(reader.text("group"), tuple(AxisCut.from_dict(cut) for cut in cuts))
        reader.finish()
        return decision


def _is_axis(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and is_integer(value[1])
    )
