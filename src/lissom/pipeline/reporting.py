"""From what a run did to the values of its report."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from lissom.artifacts import weights_content
from lissom.export.files import write_files
from lissom.export.onnx import OnnxCheck, export_onnx
from lissom.graph.layers import ModelGraph
from lissom.measure.baselines import int8_onnx_bytes
from lissom.measure.clock import RuntimeClock
from lissom.measure.memory import peak_activation_bytes
from lissom.measure.runtime import Runnable
from lissom.packed.writer import PackedFile
from lissom.pipeline.evidence import Stage, evidence_of, sections_of
from lissom.pipeline.feasibility import Feasibility, FeasibilityRow
from lissom.pipeline.int8_file import Int8File
from lissom.pipeline.layer_rows import layer_rows
from lissom.pipeline.storage import not_levels, storage_section
from lissom.pipeline.timing import Latencies, latencies, outpaced, slowness, unpaid
from lissom.plan.budget import Budget
from lissom.plan.cost import Cost
from lissom.plan.plan import Plan
from lissom.report.measured import Measured, MetricValue
from lissom.report.provenance import gather_provenance
from lissom.report.report import BudgetRow, Report
from lissom.task import Metric, Task

ORIGINAL, COMPRESSED, INT8 = "original", "compressed", "int8"
_ROUNDING = 1e-9  # of a difference of two metrics, in points
_NOISE = 0.05  # of a latency: two measurements of one network differ by as much


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two networks.

    Attributes:
        model: The network.
        graph: What it is made of, measured on itself.
        metric: Test metric.
    """

    model: nn.Module
    graph: ModelGraph
    metric: float


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that a run did.

    Attributes:
        task: Gives the metric its name.
        sides: The original and the compressed network.
        stages: In order.
        feasibility: What was asked and what could be reached.
        settings: Settings that change the meaning of the report.
        packed: The packed file of the compressed network; None where none is written.
        int8: Its file in int8; None where the plan decides on none.
    """

    task: Task
    sides: tuple[Side, Side]
    stages: tuple[Stage, ...]
    feasibility: Feasibility
    settings: Mapping[str, Any]
    packed: PackedFile | None = None
    int8: Int8File | None = None

    @property
    def plan(self) -> Plan:
        """Give all decisions."""
        return self.stages[-1].plan


class _Exported(NamedTuple):
    check: OnnxCheck
    latencies: Latencies
    content: bytes
    int8_bytes: int | None


def report_of(
    run: Run,
    example_inputs: tuple[Tensor, ...],
    clock: RuntimeClock,
    seconds: Mapping[str, float],
) -> tuple[Report, bytes]:
    """Measure what is left to measure and put the report together.

    Args:
        run: What was done.
        example_inputs: Inputs of batch 1.
        clock: Measures latency.
        seconds: Wall time per phase.

    Returns:
        The report, and the content of model.onnx.

    Raises:
        ExportError: The network can't be exported, or its file computes something else.
        ModelError: The network makes a tensor that is not dense.
    """
    exported = _exported(run, example_inputs, clock)
    before, after, *others = exported.latencies
    final = others[0] if others else after
    original, compressed = run.sides
    last = run.stages[-1]
    predicted = last.proposal.predicted
    size = None if run.packed is None else len(run.packed.content)
    measured = (
        _measured(run.task, original, example_inputs, before),
        replace(
            _measured(run.task, compressed, example_inputs, after, size),
            metric_raw=last.row.metric_raw,
        ),
    )
    finished = replace(
        measured[1], metric=_final_metric(run, measured[1]), latency_ms=final["median_ms"]
    )
    budget = _budget_rows(run.feasibility, measured[0], finished)
    report = Report(
        method="+".join(stage.row.method for stage in run.stages if stage.row.iteration == 1),
        source="" if run.plan.source is None else run.plan.source.spec,
        original=measured[0],
        compressed=measured[1],
        budget=budget,
        layers=tuple(
            layer_rows(
                original.graph,
                compressed.graph,
                [stage.proposal for stage in run.stages],
                _weights(compressed.model),
            )
        ),
        refusals=original.graph.refusals,
        provenance=gather_provenance(
            int(run.settings["recover"]["seed"]),
            run.plan.to_json(),
            seconds,
            device=last.history.device,
            precision=last.history.precision,
            channels_last=last.history.channels_last,
        ),
        settings=run.settings,
        evidence=evidence_of(run.stages, original.graph.notes),
        predicted={"params": predicted.params, "macs": predicted.macs},
        onnx=asdict(exported.check),
        warnings=(
            *_warnings(compressed.graph.cost, predicted),
            *_losses(budget),
            *(stage.proposal.above for stage in run.stages if stage.proposal.above),
            *slowness(before, final),
            *chain.from_iterable(map(outpaced, others)),
            *chain.from_iterable(unpaid(stage.proposal.evidence) for stage in run.stages),
            *_kept(compressed.model, run.plan),
        ),
        methods=sections_of(run.stages),
        storage=_storage(run, exported.int8_bytes),
        int8_file={} if run.int8 is None else {**run.int8.section, "latency": others[0]},
        steps=tuple(stage.row for stage in run.stages) if len(run.stages) > 1 else (),
    )
    return report, exported.content


def _storage(run: Run, int8_onnx: int | None) -> dict[str, Any]:
    if run.packed is None:
        return {}
    models = run.sides[0].model, run.sides[1].model
    return storage_section(models, run.plan, run.packed, int8_onnx)


def _weights(model: nn.Module) -> dict[str, int]:
    """Count the values of each layer's weight."""
    return {
        name.rpartition(".")[0]: parameter.numel()
        for name, parameter in model.named_parameters()
        if name.rpartition(".")[2] == "weight"
    }


def _exported(run: Run, example_inputs: tuple[Tensor, ...], clock: RuntimeClock) -> _Exported:
    """Export both networks, check them, and time them beside each other."""
    with tempfile.TemporaryDirectory(prefix="lissom-onnx-") as folder:
        files = {name: Path(folder) / f"{name}.onnx" for name in (ORIGINAL, COMPRESSED, INT8)}
        export_onnx(run.sides[0].model, example_inputs, files[ORIGINAL])
        check = export_onnx(run.sides[1].model, example_inputs, files[COMPRESSED])
        original, compressed = (side.model for side in run.sides)
        given = [Runnable(original, files[ORIGINAL]), Runnable(compressed, files[COMPRESSED])]
        if run.int8 is not None:
            write_files({files[INT8]: run.int8.content})
            given.append(Runnable(file=files[INT8]))
        times = latencies(given, (original, compressed), clock)
        int8 = None if run.packed is None else int8_onnx_bytes(files[ORIGINAL])
        return _Exported(check, times, files[COMPRESSED].read_bytes(), int8)


def _measured(
    task: Task,
    side: Side,
    example_inputs: tuple[Tensor, ...],
    latency: Mapping[str, Any],
    size: int | None = None,
) -> Measured:
    metric = task.metric
    return Measured(
        params=side.graph.cost.params,
        macs=side.graph.cost.macs,
        size_bytes=len(weights_content(side.model)) if size is None else size,
        metric=MetricValue(metric.name, side.metric, metric.unit, metric.higher_is_better),
        latency_ms=latency["median_ms"],
        latency=latency,
        peak_memory_bytes=peak_activation_bytes(side.model, example_inputs),
    )


def _budget_rows(
    feasibility: Feasibility, original: Measured, now: Measured
) -> tuple[BudgetRow, ...]:
    has: dict[str, float | None] = {"params": now.params, "macs": now.macs, "size": now.size_bytes}
    has["max_drop"] = _points_lost(original.metric, now.metric)
    has["latency"] = now.latency_ms
    rows = []
    for row in feasibility.rows:
        measured, (asked, slack) = has[row.quantity], _asked(row, original)
        met = measured is not None and measured <= asked + slack
        rows.append(BudgetRow(row.quantity, row.text, asked, measured, met, row.smallest))
    return tuple(rows)


def _final_metric(run: Run, now: Measured) -> MetricValue | None:
    """Give the metric of the file that the run is for: in int8, where there is one."""
    return now.metric if run.int8 is None else MetricValue(**run.int8.section["metric"])


def _asked(row: FeasibilityRow, original: Measured) -> tuple[float, float]:
    """Give a limit in absolute numbers, and by how much rounding or noise may exceed it."""
    limit = Budget.parse({"latency": row.text}).latency if row.quantity == "latency" else None
    if limit is None:
        return row.asked, _ROUNDING
    absolute = limit.resolve(original.latency_ms or 0.0)
    return absolute, _NOISE * absolute


def _points_lost(before: MetricValue | None, after: MetricValue | None) -> float | None:
    """Give how much worse the metric became: percentage points of a fraction, else in its unit."""
    if before is None or after is None or before.value is None or after.value is None:
        return None
    metric = Metric(after.name, after.unit, after.higher_is_better)
    return metric.points_lost(before.value, after.value)


def _losses(budget: Sequence[BudgetRow]) -> Iterator[str]:
    for row in budget:
        if row.quantity == "max_drop" and not row.met:
            yield (
                f"max_drop={row.asked}: the test set lost {row.measured or 0:.2f} points; the "
                "method went by held-out data, which promise less than it seems"
            )


def _kept(network: nn.Module, plan: Plan) -> Iterator[str]:
    names = not_levels(network, plan)
    if names:
        yield (
            f"{', '.join(names)}: planned as levels, but the packed file keeps the weights as they "
            "are: they are not few multiples of one scale"
        )


def _warnings(measured: Cost, predicted: Cost) -> tuple[str, ...]:
    if (measured.params, measured.macs) == (predicted.params, predicted.macs):
        return ()
    return (
        f"predicted {predicted.macs:,} MACs and {predicted.params:,} parameters, measured "
        f"{measured.macs:,} and {measured.params:,}",
    )
