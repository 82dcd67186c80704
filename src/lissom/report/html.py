"""The report as one page that needs no other file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from lissom.report import charts, figures
from lissom.report.drawings import (
    FAMILIES,
    layers_with_macs,
    legend_of,
    macs,
    params,
    styles,
    units_of,
)
from lissom.report.encoding import plain
from lissom.report.int8_file import int8_tiles
from lissom.report.report import Report
from lissom.report.steps import BRANCHES_NOTE, judged_branches
from lissom.report.steps import NOTE as STEPS_NOTE
from lissom.report.storage import NOTE
from lissom.report.tables import (
    branch_table,
    budget_table,
    layer_table,
    measured_table,
    origin_table,
    refusal_table,
    step_table,
    storage_table,
)

_REMAINING = {"macs": "decompose", "params": "both", "target": "keep"}
_STRENGTH = {"lambda": "prune"}
_BYTES = {"bytes": "both", "target": "keep"}
_COURSE = {
    "macs": "MACs remaining",
    "params": "parameters remaining",
    "bytes": "bytes of the file",
    "target": "target",
    "lambda": "lambda",
}


def page(report: Report) -> str:
    """Give the report as an HTML page with inline style and charts, for light and dark screens."""
    style = styles("palette", "page", "chart")
    source = report.source or "A network of your own"
    title = f"{source} compressed by {report.method}"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(_parts(report)) + "\n</body>\n</html>\n"
    )


def _parts(report: Report) -> Iterator[str]:
    when = report.provenance.created[:16].replace("T", " ")
    yield f'<p class="soft">{escape(when)} UTC, seed {report.provenance.seed}</p>'
    yield f'<div class="tiles">{"".join(_tiles(report))}</div>'
    for warning in report.warnings:
        yield f'<p class="note">{escape(warning)}</p>'
    yield _heading("Budget", "As measured on the new network.")
    yield budget_table(report)
    if report.steps:
        yield _heading("Steps", STEPS_NOTE)
        yield step_table(report)
    yield from _layers(report)
    yield from _sensitivities(report)
    if any(judged_branches(report)):
        yield _heading("Residual branches", BRANCHES_NOTE)
        yield branch_table(report)
    for name, section in report.methods.items():
        yield from _learned(name, section)
    yield _heading("Measured")
    yield measured_table(report)
    if report.storage:
        yield _heading("Storage", NOTE)
        yield storage_table(report)
    yield _heading("Layer by layer", "Costs of a decomposed layer are those of all its factors.")
    yield layer_table(report)
    if report.refusals:
        yield _heading("Not offered", "What was left alone, and what would change that.")
        yield refusal_table(report)
    yield _heading("Where the numbers come from")
    yield origin_table(report)
    if report.evidence or report.methods:
        evidence = json.dumps(plain({**report.evidence, **report.methods}), indent=1)
        yield f"<details><summary>Evidence</summary><pre>{escape(evidence)}</pre></details>"


def _heading(text: str, below: str = "") -> str:
    line = f'<p class="soft">{escape(below)}</p>' if below else ""
    return f"<h2>{escape(text)}</h2>{line}"


def _tiles(report: Report) -> Iterator[str]:
    before, after = report.original, report.compressed
    for name, words, write, field in (
        ("MACs", ("fewer", "more"), figures.count, "macs"),
        ("parameters", ("fewer", "more"), figures.count, "params"),
        ("file size", ("smaller", "larger"), figures.byte_size, "size_bytes"),
        ("activations, peak", ("smaller", "larger"), figures.byte_size, "peak_memory_bytes"),
        ("latency, median", ("faster", "slower"), figures.milliseconds, "latency_ms"),
    ):
        ours, theirs = getattr(before, field), getattr(after, field)
        if theirs is not None:
            change = figures.compared(ours, theirs, *words) if ours else write(theirs)
            yield _tile(name, change, f"{write(ours)} → {write(theirs)}")
    if after.metric is not None:
        start = before.metric.value if before.metric else None
        values = (figures.metric(after.metric, value) for value in (start, after.metric.value))
        change = figures.change(after.metric, start, after.metric.value)
        yield _tile(after.metric.name, change, " → ".join(values))
    for name, ours, theirs, change in int8_tiles(report):
        yield _tile(name, change, f"{ours} → {theirs}")


def _tile(name: str, big: str, small: str) -> str:
    return (
        f'<div class="tile"><div class="name">{escape(name)}</div>'
        f'<div class="big">{escape(big)}</div><div class="small">{escape(small)}</div></div>'
    )


def _layers(report: Report) -> Iterator[str]:
    rows = layers_with_macs(report)
    legend = legend_of(rows)
    yield _heading("Over the depth of the network", "Layers with MACs, from input to output.")
    yield _legend(legend)
    if set(legend) & set(charts.GROUPS):
        yield f"<figure>{charts.group_map(rows)}</figure>"
    yield f"<figure>{charts.cost_bars(rows, 'MACs', macs)}</figure>"
    yield f"<figure>{charts.cost_bars(rows, 'parameters', params)}</figure>"


def _legend(entries: Mapping[str, str]) -> str:
    items = (
        f'<span><i class="back-{key}"></i>{escape(text)}</span>' for key, text in entries.items()
    )
    return f'<div class="legend">{"".join(items)}</div>'


def _sensitivities(report: Report) -> Iterator[str]:
    units = units_of(report.layers)
    if not units:
        return
    low, high = charts.harm_range([row.sensitivities for row in units.values()])
    yield _heading(
        "Sensitivity",
        f"Harm (logarithmic, {low:g} to {high:g} in every field) when a fraction of a unit's MACs "
        "is removed by one family alone.",
    )
    yield _legend(FAMILIES)
    yield '<div class="grid">'
    for name, row in units.items():
        curve = charts.harm_curves(row.sensitivities, (low, high))
        yield (
            f'<figure>{curve}<figcaption title="{escape(name)}">'
            f'<span class="badge"><i class="back-{charts.colour(row)}"></i></span>{escape(name)}'
            "</figcaption></figure>"
        )
    yield "</div>"


def _learned(name: str, section: Mapping[str, Any]) -> Iterator[str]:
    """Show what a method that trains learned: the course of its training, and what it left."""
    records = section.get("trajectory") or ()
    said = [text for text in (figures.merging(section), _changed(section)) if text]
    if not records and not said:
        return
    sized = any(one.get("bytes") for one in records)
    seen = "The file's size" if sized else "Remaining: compressed / original"
    yield _heading(f"What {name} learned", f"{seen}, as expected then." if records else "")
    for text in said:
        yield f"<p>{escape(text[0].upper() + text[1:])}.</p>"
    what, course = ("bytes of the file", _BYTES) if sized else ("remaining", _REMAINING)
    looks = {**course, **_STRENGTH}
    drawn = (key for key in looks if any(one.get(key) for one in records))
    yield _legend({looks[key]: _COURSE[key] for key in drawn})
    for series, axis, write in (
        (course, what, figures.byte_size if sized else figures.share),
        (_STRENGTH, "lambda", "{:.2g}".format),
    ):
        chart = charts.course(records, series, axis, write)
        if chart:
            yield f"<figure>{chart}</figure>"


def _changed(section: Mapping[str, Any]) -> str:
    named = ((what, section.get(what) or ()) for what in ("removed", "merged"))
    return "; ".join(f"{what}: {', '.join(map(str, names))}" for what, names in named if names)
