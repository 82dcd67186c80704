"""Tables of a report as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from lissom.graph.layers import Refusal
from lissom.report import charts, figures
from lissom.report.int8_file import int8_rows
from lissom.report.report import BudgetRow, LayerRow, Report
from lissom.report.steps import judged_branches, metric_rows, step_cells, step_head
from lissom.report.storage import storage_rows


def measured_table(report: Report) -> str:
    """Give every measured figure of both networks."""
    before, after = report.original, report.compressed
    rows = [
        ("parameters", f"{before.params:,}", f"{after.params:,}"),
        ("MACs", f"{before.macs:,}", f"{after.macs:,}"),
        ("file, bytes", _whole(before.size_bytes), _whole(after.size_bytes)),
        (
            "activations at batch 1, peak, bytes",
            _whole(before.peak_memory_bytes),
            _whole(after.peak_memory_bytes),
        ),
        (
            "latency, median",
            figures.milliseconds(before.latency_ms),
            figures.milliseconds(after.latency_ms),
        ),
        (
            "latency, quartiles, ms",
            figures.quartiles(before.latency),
            figures.quartiles(after.latency),
        ),
    ]
    rows += [row[:3] for row in (*metric_rows(report), *int8_rows(report))]
    return _table(("", "original", "compressed"), [_cells(row) for row in rows], numbers=(1, 2))


def budget_table(report: Report) -> str:
    """Give one row per limit."""
    rows = [
        [
            *_cells(
                (
                    row.quantity,
                    row.asked,
                    *_amounts(row),
                )
            ),
            f'<span class="{"good" if row.met else "bad"}">{"yes" if row.met else "NO"}</span>',
        ]
        for row in report.budget
    ]
    head = ("", "asked", "limit", "measured", "smallest reachable", "met")
    return _table(head, rows, numbers=(1, 2, 3, 4))


def _amounts(row: BudgetRow) -> Iterator[str]:
    write = figures.milliseconds if row.quantity == "latency" else _limit
    return (write(value) for value in (row.limit, row.measured, row.smallest))


def step_table(report: Report) -> str:
    """Give one row per step."""
    like = report.compressed.metric
    rows = [_cells(step_cells(row, like)) for row in report.steps]
    return _table(step_head(like), rows, numbers=(2, 3, 4, 5, 6))


def branch_table(report: Report) -> str:
    """Give one row per residual branch that could go."""
    rows = [_cells(row) for row in judged_branches(report)]
    return _table(("branch", "harm", "saves", "dropped"), rows, numbers=(1, 2))


def storage_table(report: Report) -> str:
    """Give ratios, bytes by kind and what others would take."""
    rows = [_cells(row) for row in storage_rows(report.storage)]
    return _table(("", "bytes", "original / compressed"), rows, numbers=(1, 2))


def layer_table(report: Report) -> str:
    """Give one row per layer and the totals of the networks."""
    levels = ("bits", "density") if figures.is_quantized(report.layers) else ()
    head = (
        *("layer", "group", "harm, prune", "harm, decompose", "decision", "channels", *levels),
        *("params", "after", "MACs", "after"),
    )
    numbers = (2, 3, *range(5, len(head)))
    rows = [_layer_cells(row, shown=levels) for row in report.layers]
    before, after = report.original, report.compressed
    totals = [f"{n:,}" for n in (before.params, after.params, before.macs, after.macs)]
    blank = [""] * (len(head) - 5)
    total = _row(_cells(("network", *blank, *totals)), numbers, "total")
    return _table(head, rows, numbers, last=total)


def refusal_table(report: Report) -> str:
    """Give refusals of one reason in one row."""
    grouped: dict[tuple[str, str, str], list[Refusal]] = {}
    for one in report.refusals:
        grouped.setdefault((one.action, one.reason, one.remedy), []).append(one)
    rows = [
        _cells((action, ", ".join(figures.named_layers(found, report.layers)), reason, remedy))
        for (action, reason, remedy), found in grouped.items()
    ]
    return _table(("action", "layers", "why", "what would help"), rows)


def origin_table(report: Report) -> str:
    """Give settings, predictions, checks, versions, machine and durations."""
    origin = report.provenance
    facts: dict[str, str] = {
        "settings": figures.listed(report.settings),
        "predicted before building, not measured": figures.listed(report.predicted),
        "latency": figures.conditions(report.compressed.latency),
        "latency, compared": figures.predicted_latency(report.compressed.latency),
        "model.onnx against torch": figures.listed(report.onnx),
        "time": ", ".join(f"{k} {figures.duration(v)}" for k, v in origin.seconds.items()),
        "versions": figures.listed(origin.versions),
        "machine": figures.listed(origin.machine),
        "plan, SHA-256": origin.plan_hash,
    }
    return _table(("", ""), [_cells(fact) for fact in facts.items() if fact[1]])


def _layer_cells(row: LayerRow, shown: Sequence[str]) -> list[str]:
    group = (
        f'<span class="badge"><i class="back-{charts.colour(row)}"></i>{escape(row.group)}</span>'
    )
    harms = (figures.harm(figures.harm_at(row, family, 0.5)) for family in ("prune", "decompose"))
    before, after = row.before.cost, row.after.cost
    costs = (f"{n:,}" for n in (before.params, after.params, before.macs, after.macs))
    return [
        escape(row.name),
        group if row.group else "",
        *_cells(harms),
        *_cells((row.decision, figures.channels(row.before, row.after))),
        *_cells((figures.bits(row.after), figures.density(row.after)) if shown else ()),
        *_cells(costs),
    ]


def _whole(value: float | None) -> str:
    return figures.NONE if value is None else f"{value:,.0f}"


def _limit(value: float | None) -> str:
    if value is None:
        return figures.NONE
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _cells(texts: Iterable[str]) -> list[str]:
    return [escape(text) for text in texts]


def _row(cells: Sequence[str], numbers: Sequence[int], look: str = "") -> str:
    marked = "".join(
        f'<td class="number">{cell}</td>' if index in numbers else f"<td>{cell}</td>"
        for index, cell in enumerate(cells)
    )
    return f'<tr class="{look}">{marked}</tr>' if look else f"<tr>{marked}</tr>"


def _table(
    head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = (), last: str = ""
) -> str:
    """Join cells that are HTML already; ``numbers`` are the columns on the right."""
    titles = "".join(
        f'<th class="number">{escape(text)}</th>'
        if index in numbers
        else f"<th>{escape(text)}</th>"
        for index, text in enumerate(head)
    )
    body = "".join(_row(cells, numbers) for cells in rows)
    header = f"<tr>{titles}</tr>" if any(head) else ""
    return f'<div class="scroll"><table>{header}{body}{last}</table></div>'
