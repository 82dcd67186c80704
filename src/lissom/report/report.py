"""The values that a run reports, field by field as docs/report-schema.md explains them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from dataclasses import fields as dataclass_fields
from typing import Any

from lissom.errors import LissomError
from lissom.graph.layers import Refusal
from lissom.plan.cost import Cost
from lissom.report.encoding import Fields, plain
from lissom.report.measured import Measured, StepRow, measured_to_dict, read_measured

SCHEMA = 1
"""Version of report.json, which only grows: no field changes its meaning or disappears."""
_SECTIONS = "method_sections"
_OPTIONAL = ("storage", "steps", "int8_file")
_MAPPINGS = ("settings", "evidence", "predicted", "onnx", "storage", "int8_file")


@dataclass(frozen=True, slots=True)
class LayerState:
    """One layer before or after compression.

    Attributes:
        cost: Cost of the layer; of all its factors together once it is decomposed.
        in_channels: Input channels (features of a linear layer); None where the layer has none.
        out_channels: Output channels; None where the layer has none.
        rank_in: Rank of the input-channel mode; None if not decomposed along it.
        rank_out: Rank of the output-channel mode; None if not decomposed along it.
        weight_bits: Of a level that is not zero, the most of its factors; None if not quantized.
        density: Share of the levels that are not zero; None if not quantized.
    """

    cost: Cost
    in_channels: int | None = None
    out_channels: int | None = None
    rank_in: int | None = None
    rank_out: int | None = None
    weight_bits: int | None = None
    density: float | None = None


@dataclass(frozen=True, slots=True)
class LayerRow:
    """What was found out about one layer, and what was done to it.

    Attributes:
        name: Dotted module name in the original network.
        kind: As in ``LayerSpec.kind``.
        before: The layer as it came.
        after: The layer as it went.
        unit: Name of the channel group that was decided as one; "" where there is none.
        group: ``decompose``, ``prune``, ``both`` or ``keep``; "" where the method did not look.
        decision: What was done, in words; "" if nothing.
        sensitivities: Per family the measured points (fraction of MACs removed, harm).
    """

    name: str
    kind: str
    before: LayerState
    after: LayerState
    unit: str = ""
    group: str = ""
    decision: str = ""
    sensitivities: Mapping[str, tuple[tuple[float, float | None], ...]] = field(
        default_factory=dict
    )


@dataclass(frozen=True, slots=True)
class BudgetRow:
    """One limit, and whether the new network keeps it as measured.

    Attributes:
        quantity: ``params``, ``macs``, ``size``, ``latency`` or ``max_drop``.
        asked: The limit as the user wrote it.
        limit: The same in absolute numbers (parameters, MACs, bytes, ms, points).
        measured: What the new network has.
        met: Whether ``measured`` keeps ``limit``.
        smallest: Smallest value that the method could reach; None if unknown.
    """

    quantity: str
    asked: str
    limit: float
    measured: float | None
    met: bool
    smallest: float | None = None


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where the numbers come from.

    Attributes:
        seed: Seed of the run.
        plan_hash: SHA-256 of plan.json.
        created: Time of the report, ISO 8601, UTC.
        versions: Versions of lissom, python, torch, onnxruntime.
        machine: Processor, threads, device, precision.
        seconds: Wall time per phase, in the order of the phases.
    """

    seed: int
    plan_hash: str
    created: str
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a run has to say. Values only: the views lay them out.

    Attributes:
        method: Name of the method, or the names of the stages joined by ``+``.
        source: Where the network comes from (``lissom:resnet56``), "" for a user's own.
        original: Measured on the network as it came.
        compressed: Measured on the network as it went.
        budget: One row per limit.
        layers: One row per layer, in execution order; their costs add up to the networks' costs.
        refusals: What was not offered to the method, and why.
        provenance: Seed, versions, machine, plan hash, durations.
        settings: Settings of the run that change its meaning (``round_to``, recovery, ...).
        evidence: What the decisions rest on besides the layers' rows.
        predicted: Predictions beside the measured values; never reported as facts.
        onnx: Result of the check of model.onnx; empty if none was written.
        warnings: Remarks for the user.
        methods: By name of a section of its own what a method learned or settled, JSON-ready.
        storage: What the packed file takes, and what others would; empty where none is written.
        steps: What each of several steps was asked for and left; empty of a run in one.
        int8_file: What model-int8.onnx gives and takes; empty where none is written.
    """

    method: str
    source: str
    original: Measured
    compressed: Measured
    budget: tuple[BudgetRow, ...]
    layers: tuple[LayerRow, ...]
    refusals: tuple[Refusal, ...]
    provenance: Provenance
    settings: Mapping[str, Any] = field(default_factory=dict)
    evidence: Mapping[str, Any] = field(default_factory=dict)
    predicted: Mapping[str, Any] = field(default_factory=dict)
    onnx: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    storage: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[StepRow, ...] = ()
    int8_file: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        taken = sorted(RESERVED & self.methods.keys())
        if taken:
            raise ValueError(f"{taken[0]} is a field of the report: name the section otherwise")

    def to_dict(self) -> dict[str, Any]:
        """Give the content of report.json: JSON types only, NaN and infinity as None."""
        body = {
            "schema": SCHEMA,
            "method": self.method,
            "source": self.source,
            "original": measured_to_dict(self.original),
            "compressed": measured_to_dict(self.compressed),
            "budget": {row.quantity: plain(row) for row in self.budget},
            "layers": [_row_to_dict(row) for row in self.layers],
        }
        names = ("refusals", "provenance", "settings", "evidence", "predicted", "onnx", "warnings")
        body |= {name: getattr(self, name) for name in names}
        body |= {name: given for name in _OPTIONAL if (given := getattr(self, name))}
        return plain(body | {_SECTIONS: list(self.methods), **self.methods})

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Report:
        """Read the content of a report.json; fields that a later version added are ignored.

        Raises:
            LissomError: A field is missing or has the wrong type.
        """
        try:
            return _read_report(Fields(content, "report"))
        except (TypeError, ValueError, AttributeError) as error:
            raise LissomError(
                f"report.json holds a value that can't be read ({error}); expected the fields of "
                "docs/report-schema.md: run lissom compress again to write a new one"
            ) from None

    def with_warnings(self, *more: str) -> Report:
        """Give a copy with further remarks for the user."""
        return replace(self, warnings=(*self.warnings, *more))


RESERVED = frozenset({"schema", _SECTIONS, *(one.name for one in dataclass_fields(Report))})
"""Names that no section of a method may have."""


def _row_to_dict(row: LayerRow) -> dict[str, Any]:
    body = plain(row)
    for side in ("before", "after"):
        cost = body[side].pop("cost")
        body[side] |= cost
    return body


def _read_report(fields: Fields) -> Report:
    return Report(
        method=fields.need("method"),
        source=fields.get("source", ""),
        original=read_measured(fields.section("original")),
        compressed=read_measured(fields.section("compressed")),
        budget=tuple(
            Fields(row, f"budget.{name}").into(BudgetRow)
            for name, row in fields.get("budget", {}).items()
        ),
        layers=tuple(_read_row(row) for row in fields.sections("layers")),
        refusals=tuple(row.into(Refusal) for row in fields.sections("refusals")),
        provenance=fields.section("provenance").into(Provenance),
        warnings=tuple(fields.get("warnings", ())),
        steps=tuple(row.into(StepRow) for row in fields.sections("steps")),
        methods={name: fields.need(name) for name in fields.get(_SECTIONS, ())},
        **{name: fields.get(name, {}) for name in _MAPPINGS},
    )


def _read_row(fields: Fields) -> LayerRow:
    curves = {
        family: tuple((point[0], point[1]) for point in points)
        for family, points in fields.get("sensitivities", {}).items()
    }
    before, after = (_read_state(fields.section(side)) for side in ("before", "after"))
    return fields.into(LayerRow, before=before, after=after, sensitivities=curves)


def _read_state(fields: Fields) -> LayerState:
    cost = Cost(*(fields.need(name) for name in ("params", "macs", "bits")))
    return fields.into(LayerState, cost=cost)
