"""What was measured on a network, and on those on the way to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lissom.report.encoding import Fields, plain


@dataclass(frozen=True, slots=True)
class MetricValue:
    """A measured metric on the test set.

    Attributes:
        name: ``accuracy``, ``mAP``, ...
        value: The mean over the test set; None if nothing was measured.
        unit: ``fraction``, ``dB``, ...
        higher_is_better: Direction.
    """

    name: str
    value: float | None
    unit: str
    higher_is_better: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured on one network.

    Attributes:
        params: Number of parameters.
        macs: Multiply-accumulates for one sample.
        size_bytes: Bytes of the one file that ``load`` opens: model.lsm where it is written, else
            weights.safetensors, as for the original.
        metric: Test metric at the end; None without test data.
        metric_raw: The same metric before recovery; None for the original.
        latency_ms: Median of ONNX Runtime, milliseconds; None if not measured.
        latency: Conditions and spread of that median (batch, threads, runs, quartiles, runtime).
        peak_memory_bytes: Most bytes of activations alive at once at batch 1; None if not measured.
    """

    params: int
    macs: int
    size_bytes: int | None = None
    metric: MetricValue | None = None
    metric_raw: float | None = None
    latency_ms: float | None = None
    latency: Mapping[str, Any] = field(default_factory=dict)
    peak_memory_bytes: int | None = None

    @property
    def accuracy(self) -> float | None:
        """Give the test accuracy, or None if the metric is another."""
        return self.metric.value if self.metric and self.metric.name == "accuracy" else None

    @property
    def accuracy_raw(self) -> float | None:
        """Give the test accuracy before recovery, or None if the metric is another."""
        return self.metric_raw if self.metric and self.metric.name == "accuracy" else None


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step of several on the way to the compressed network: a stage, or an iteration of one.

    Attributes:
        stage: Number of the stage, from 0.
        method: What decided.
        iteration: From 1.
        iterations: Of the stage.
        asked: By quantity the most that might remain after the step: absolute, or a text as the
            user wrote it where only the run can tell what it is a fraction of (latency).
        epochs: Of its recovery, as planned.
        params: Parameters that it left; None before the run.
        macs: MACs that it left; None before the run.
        metric_raw: Test metric before its recovery; None before the run.
        metric: Test metric after its recovery; None before the run.
    """

    stage: int
    method: str
    iteration: int
    iterations: int
    asked: Mapping[str, float | str]
    epochs: int
    params: int | None = None
    macs: int | None = None
    metric_raw: float | None = None
    metric: float | None = None


def measured_to_dict(measured: Measured) -> dict[str, Any]:
    """Give the JSON object of one network.

    Args:
        measured: On it.
    """
    body = plain(measured)
    if measured.metric and measured.metric.name == "accuracy":
        body |= {"accuracy": measured.accuracy, "accuracy_raw": measured.accuracy_raw}
    return body


def read_measured(fields: Fields) -> Measured:
    """Read what ``measured_to_dict`` gave.

    Args:
        fields: The object.

    Raises:
        LissomError: A field is missing.
    """
    metric = fields.get("metric", None)
    value = Fields(metric, f"{fields.place}.metric").into(MetricValue) if metric else None
    return fields.into(Measured, metric=value)
