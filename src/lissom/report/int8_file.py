"""What the file in int8 gives and takes, as rows that every view shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from lissom.clock import TimeRatio
from lissom.report import figures
from lissom.report.measured import MetricValue
from lissom.report.report import Report

_FLOAT = "float"


class _Amount(NamedTuple):
    label: str
    words: tuple[str, str]  # for less and for more
    write: Callable[[float | None], str]
    ours: float | None
    theirs: float | None


def int8_rows(report: Report) -> Iterator[tuple[str, str, str, str]]:
    """Give label, the original's value, the file's, and the change; nothing where there is none.

    Args:
        report: Of a run.
    """
    for one in _amounts(report):
        yield *_written(one), figures.ratio(one.ours, one.theirs)
    yield from _metric(report)


def int8_tiles(report: Report) -> Iterator[tuple[str, str, str, str]]:
    """Give the same with changes in words.

    Args:
        report: Of a run.
    """
    for one in _amounts(report):
        yield *_written(one), figures.compared(one.ours, one.theirs, *one.words)
    yield from _metric(report)


def _amounts(report: Report) -> Iterator[_Amount]:
    section, before = report.int8_file, report.original
    if section:
        size, latency = section.get("size_bytes"), section.get("latency", {}).get("median_ms")
        yield _Amount(
            "int8 file size", ("smaller", "larger"), figures.byte_size, before.size_bytes, size
        )
        yield _Amount(
            "latency in int8, median",
            ("faster", "slower"),
            figures.milliseconds,
            before.latency_ms,
            latency,
        )


def _written(one: _Amount) -> tuple[str, str, str]:
    return one.label, one.write(one.ours), one.write(one.theirs)


def _metric(report: Report) -> Iterator[tuple[str, str, str, str]]:
    if not report.int8_file:
        return
    like, before = MetricValue(**report.int8_file["metric"]), report.original.metric
    start = before.value if before else None
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
