"""What the file in int8 gives and takes, as rows that every view shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lissom.clock import TimeRatio
from lissom.report import figures
from lissom.report.measured import MetricValue
from lissom.report.report import Report

_FLOAT = "float"


def int8_rows(report: Report) -> Iterator[tuple[str, str, str, str]]:
    """Give label, the original's value, the file's, and the change; nothing where there is none.

    Args:
        report: Of a run.
    """
    section = report.int8_file
    if not section:
        return
    before = report.original
    size, latency = section.get("size_bytes"), section.get("latency", {}).get("median_ms")
    yield "int8 file size", *_pair(figures.byte_size, before.size_bytes, size)
    yield "latency in int8, median", *_pair(figures.milliseconds, before.latency_ms, latency)
    like, start = MetricValue(**section["metric"]), before.metric.value if before.metric else None
    yield (
        f"{like.name} in int8",
        figures.metric(like, start),
        figures.metric(like, like.value),
        figures.change(like, start, like.value),
    )


def int8_remark(section: Mapping[str, Any], evidence: Mapping[str, Any]) -> str:
    """Say what runs in int8 and what does not.

    Args:
        section: Of the report; may be empty.
        evidence: Of the stage that decided it; may be empty.
    """
    layers = section.get("layers", {})
    if not layers:
        return ""
    others = [name for name, kind in layers.items() if kind == _FLOAT]
    named = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
    return "; ".join(
        [
            f"model-int8.onnx: {len(layers) - len(others)} of {len(layers)} layers run in int8",
            *([f"in float: {named}"] if others else []),
            *for_time(evidence.get("faster_in_float", {})),
        ]
    )


def for_time(found: Mapping[str, Any]) -> Iterator[str]:
    """Say how many layers are in float for time, or that this is not known; nothing for none.

    Args:
        found: ``faster_in_float`` of the evidence.
    """
    if found.get("layers"):
        ratio = TimeRatio(**found["ratio"])
        yield f"{len(found['layers'])} for time: {ratio} of what all in int8 takes"
    elif "not_checked" in found:
        yield f"whether some are faster in float is not known: {found['not_checked']}"


def _pair(write: Any, ours: float | None, theirs: float | None) -> tuple[str, str, str]:
    return write(ours), write(theirs), figures.ratio(ours, theirs)
