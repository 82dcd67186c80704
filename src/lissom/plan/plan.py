"""The plan: every decision in order, as data that compares, concatenates and survives JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Self

from torch import nn

from lissom.errors import PlanError
from lissom.plan.decision import Decision
from lissom.plan.drop_residual import DropResidual
from lissom.plan.fields import Fields
from lissom.plan.fold import FoldBatchNorm
from lissom.plan.keep_channels import KeepChannels
from lissom.plan.low_rank import ChannelSVD, Tucker2
from lissom.plan.merge import Merge
from lissom.plan.quantize import Quantize
from lissom.plan.round_activations import RoundActivations
from lissom.plan.separable import FilterCP, SpatialSVD, TensorTrain
from lissom.plan.sparse_plus import SparsePlusSVD

FORMAT = 1
_BUILT_IN: tuple[type[Decision], ...] = (
    KeepChannels,
    Tucker2,
    ChannelSVD,
    SpatialSVD,
    FilterCP,
    TensorTrain,
    SparsePlusSVD,
    DropResidual,
    FoldBatchNorm,
    Merge,
    Quantize,
    RoundActivations,
)


@dataclass(frozen=True, slots=True)
class Source:
    """How the original network is made.

    Attributes:
        spec: ``lissom:resnet56``, ``torchvision:resnet18``, ``timm:...``.
        arguments: (name, value) pairs for the factory; values are strings, numbers, booleans, None
            or tuples of these.
    """

    spec: str
    arguments: tuple[tuple[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON-ready values."""
        return {
            "spec": self.spec,
            "arguments": {key: _as_lists(value) for key, value in self.arguments},
        }

    @classmethod
    def from_dict(cls, values: object) -> Self:
        """Rebuild from ``to_dict``'s output.

        Raises:
            PlanError: A field is missing, unknown or of the wrong type.
        """
        fields = Fields("source", values)
        spec, arguments = fields.text("spec"), fields.take("arguments")
        fields.finish()
        if not isinstance(arguments, dict):
            raise PlanError(
                f"source: field 'arguments' must be an object, got {type(arguments).__name__}"
            )
        return cls(spec, tuple((key, _as_tuples(value)) for key, value in arguments.items()))


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done to a network, in order; structure only.

    Attributes:
        decisions: Applied one after another.
        source: How the original network is made; None for a user's own.
        signature: ``plan_signature`` of the original network; "" to skip the check.
        tensors: (name, shape) of the original's tensors, sorted, so that a mismatch can be named.
    """

    decisions: tuple[Decision, ...]
    source: Source | None = None
    signature: str = ""
    tensors: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @classmethod
    def starting_from(cls, model: nn.Module, source: Source | None = None) -> Self:
        """Give the empty plan for ``model``, to which decisions are added with ``+``.

        Args:
            model: The original network.
            source: How it is made; None for a user's own.
        """
        return cls((), source, plan_signature(model), tensor_shapes(model))

    def __add__(self, later: Plan) -> Plan:
        """Concatenate: ``later`` was decided on the network that this plan leaves."""
        return Plan(self.decisions + later.decisions, self.source, self.signature, self.tensors)

    def to_json(self) -> str:
        """Give plan.json's text: compact, with one decision a line."""
        head = {
            "format": FORMAT,
            "source": None if self.source is None else self.source.to_dict(),
            "signature": self.signature,
            "tensors": {name: list(shape) for name, shape in self.tensors},
        }
        lines = [_compact({"kind": one.kind, **one.to_dict()}) for one in self.decisions]
        body = ",\n".join(lines)
        return f'{_compact(head)[:-1]},"decisions":[\n{body}\n]}}\n'

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Rebuild from ``to_json``'s output.

        Raises:
            PlanError: It is no JSON, has another format number, an unknown kind or a wrong field.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PlanError(
                f"the plan is no JSON ({error}); the file is damaged, make it anew"
            ) from None
        fields = Fields("plan", values)
        _check_format(fields.take("format"))
        source, tensors = fields.take("source"), fields.take("tensors")
        plan = cls(
            decisions=tuple(
                _decision(one)
                for one in fields.items(
                    "decisions", "an object", lambda value: isinstance(value, dict)
                )
            ),
            source=None if source is None else Source.from_dict(source),
            signature=fields.text("signature"),
            tensors=_shapes(tensors),
        )
        fields.finish()
        return plan


def tensor_shapes(model: nn.Module) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Give (name, shape) of every tensor in the state dict, sorted by name.

    Args:
        model: The network, on any device.
    """
    state = model.state_dict()
    return tuple(sorted((name, tuple(tensor.shape)) for name, tensor in state.items()))


def plan_signature(model: nn.Module) -> str:
    """Give the SHA-256, in hexadecimal, of all state-dict names and shapes.

    Args:
        model: The network that a plan starts from, on any device.
    """
    text = "".join(f"{name}:{list(shape)}\n" for name, shape in tensor_shapes(model))
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def decision_kinds() -> Mapping[str, type[Decision]]:
    """Give every kind that a plan may hold: lissom's own and those of installed entry points.

    A plan only ever picks from this closed mapping; no name in a plan leads to an import.

    Raises:
        PlanError: An installed entry point of the group ``lissom.decisions`` is no decision, or
            takes the name of another.
    """
    kinds: dict[str, type[Decision]] = {one.kind: one for one in _BUILT_IN}
    for entry in entry_points(group="lissom.decisions"):
        kind = entry.load()
        if not (isinstance(kind, type) and issubclass(kind, Decision)) or kind.kind in kinds:
            raise PlanError(
                f"the installed entry point {entry.value!r} offers the decision kind "
                f"{entry.name!r}; "
                "expected a subclass of Decision under a name that is free; uninstall its package "
                "or "
                "repair it"
            )
        kinds[kind.kind] = kind
    return kinds


def _decision(values: dict[str, Any]) -> Decision:
    fields = dict(values)
    kind = fields.pop("kind", None)
    kinds = decision_kinds()
    if not isinstance(kind, str) or kind not in kinds:
        raise PlanError(
            f"the plan holds a decision of unknown kind {kind!r}; known are "
            f"{', '.join(sorted(kinds))}. "
            "Install the package that offers it, or a newer lissom"
        )
    return kinds[kind].from_dict(fields)


def _check_format(number: object) -> None:
    if number != FORMAT:
        raise PlanError(
            f"the plan has format number {number!r}, this version of lissom reads {FORMAT}; use "
            "the "
            "version that wrote it, or make the plan anew"
        )


def _shapes(values: object) -> tuple[tuple[str, tuple[int, ...]], ...]:
    fields = Fields("plan: tensors", values)
    names = list(values) if isinstance(values, dict) else []
    return tuple((name, fields.integers(name)) for name in names)


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _as_lists(value: Any) -> Any:
    return [_as_lists(entry) for entry in value] if isinstance(value, tuple) else value


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(entry) for entry in value) if isinstance(value, list) else value
