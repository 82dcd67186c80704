"""The lines below the tables of a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.text import Text

from lissom.report import figures
from lissom.report.int8_file import int8_remark
from lissom.report.report import Report
from lissom.report.steps import dropped_branches


def remarks(report: Report) -> Iterator[Text]:
    """Give what does not fit into a table, line by line."""
    yield from _done(report)
    latency = report.compressed.latency
    if latency:
        said = (figures.conditions(latency), figures.predicted_latency(latency))
        yield Text(f"Latency: {'; '.join(filter(None, said))}.")
    if report.onnx:
        check = report.onnx
        merged = check.get("merged", 0)
        went = f"; {merged} 1x1 convolutions went into those behind them" if merged else ""
        yield Text(
            f"model.onnx: at most {check.get('max_difference', 0):.2g} from torch "
            f"where outputs reach {check.get('scale', 0):.3g}{went}. "
            f"{check.get('note', '')}".rstrip()
        )
    if report.int8_file:
        yield Text(f"{int8_remark(report.int8_file, report.methods.get('int8', {}))}.")
    if report.predicted:
        yield Text(f"Predicted before building, not measured: {figures.listed(report.predicted)}.")
    for warning in report.warnings:
        yield Text(f"Note: {warning}", style="yellow")
    yield Text(_origin(report), style="dim")


def _done(report: Report) -> Iterator[Text]:
    """Give what was done that no layer's row tells."""
    for name, section in report.methods.items():
        merging = figures.merging(section)
        if merging:
            yield Text(f"{name}: {merging}.")
    dropped = dropped_branches(report)
    if dropped:
        yield Text(f"Residual branches dropped, {len(dropped)}: {', '.join(dropped)}.")


def _origin(report: Report) -> str:
    origin = report.provenance
    versions = ", ".join(f"{name} {version}" for name, version in origin.versions.items())
    phases = ", ".join(f"{name} {figures.duration(time)}" for name, time in origin.seconds.items())
    flat = {k: v for k, v in report.settings.items() if not isinstance(v, (Mapping, list, tuple))}
    settings = figures.listed(flat)
    lines = (
        f"Settings: {settings}; all of them in report.json." if settings else "",
        f"Time: {phases}." if phases else "",
        f"Seed {origin.seed}, plan {origin.plan_hash[:12]}, {versions}.",
    )
    return "\n".join(line for line in lines if line)
