"""The report as text that fits 100 columns."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from lissom.graph.layers import Refusal
from lissom.plan.cost import Cost
from lissom.report import charts, figures
from lissom.report.int8_file import int8_rows
from lissom.report.measured import Measured
from lissom.report.remarks import remarks
from lissom.report.report import LayerRow, Report
from lissom.report.steps import filled, metric_rows
from lissom.report.storage import NOTE, storage_rows

WIDTH = 100
_Column = tuple[str, Callable[[LayerRow], str | Text]]


def as_text(view: RenderableType) -> str:
    """Give what rich would print as plain text, without colour codes and trailing blanks."""
    stream = io.StringIO()
    console = Console(file=stream, width=WIDTH, color_system=None, highlight=False)
    console.print(view)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def layout(report: Report) -> RenderableType:
    """Give what rich prints; ``as_text`` makes plain text of it."""
    return Group(*_parts(report))


def _parts(report: Report) -> Iterator[RenderableType]:
    source = report.source or "a network of your own"
    yield Text(f"{source} compressed by {report.method}", style="bold")
    yield from _titled("Measured", _summary(report))
    yield from _titled("Budget, as measured", _budget(report))
    if report.steps:
        yield from _titled("Steps", filled(plain_table(), report.steps, report.compressed.metric))
    title = "Layers"
    if any(row.sensitivities for row in report.layers):
        title += " (harm: where half of the layer's MACs are removed)"
    yield from _titled(title, _layers(report))
    if report.storage:
        yield from _titled("Storage (bytes, and original / compressed)", _storage(report))
        yield Text(NOTE, style="dim")
    if report.refusals:
        yield from _titled("Not offered", _refusals(report))
    yield Text()
    yield from remarks(report)


def _titled(title: str, table: Table) -> Iterator[RenderableType]:
    yield Text(f"\n{title}", style="bold")
    yield table


def plain_table() -> Table:
    """Give an empty table in the style of all of lissom's text."""
    return Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1),
        pad_edge=False,
        collapse_padding=True,
    )


def _summary(report: Report) -> Table:
    before, after = report.original, report.compressed
    table = plain_table()
    table.add_column("")
    for name in ("original", "compressed", "change"):
        table.add_column(name, justify="right")
    for label, write, name in (
        ("parameters", figures.count, "params"),
        ("MACs", figures.count, "macs"),
        ("file size", figures.byte_size, "size_bytes"),
    ):
        ours, theirs = getattr(before, name), getattr(after, name)
        table.add_row(label, write(ours), write(theirs), figures.ratio(ours, theirs))
    _add_memory(table, before, after)
    _add_latency(table, before, after)
    for row in (*metric_rows(report), *int8_rows(report)):
        table.add_row(*row)
    return table


def _add_memory(table: Table, before: Measured, after: Measured) -> None:
    ours, theirs = before.peak_memory_bytes, after.peak_memory_bytes
    if ours is None and theirs is None:
        return
    table.add_row(
        "activations, peak",
        figures.byte_size(ours),
        figures.byte_size(theirs),
        figures.ratio(ours, theirs),
    )


def _add_latency(table: Table, before: Measured, after: Measured) -> None:
    if before.latency_ms is None and after.latency_ms is None:
        return
    table.add_row(
        "latency, median",
        figures.milliseconds(before.latency_ms),
        figures.milliseconds(after.latency_ms),
        figures.ratio(before.latency_ms, after.latency_ms),
    )
    table.add_row(
        "latency, quartiles",
        figures.quartiles(before.latency),
        figures.quartiles(after.latency),
        "",
    )


def _budget(report: Report) -> Table:
    table = plain_table()
    table.add_column("")
    for name in ("asked", "limit", "measured", "smallest reachable"):
        table.add_column(name, justify="right")
    table.add_column("met")
    for row in report.budget:
        write = _WRITERS.get(row.quantity, figures.count)
        style = "green" if row.met else "bold red"
        table.add_row(
            row.quantity,
            row.asked,
            write(row.limit),
            write(row.measured),
            write(row.smallest),
            Text("yes" if row.met else "NO", style=style),
        )
    return table


def _three_digits(value: float | None) -> str:
    return figures.NONE if value is None else f"{value:.3g}"


_WRITERS = {"size": figures.byte_size, "latency": figures.milliseconds, "max_drop": _three_digits}


def _layers(report: Report) -> Table:
    table = plain_table()
    columns = _choices(report)
    table.add_column("layer", overflow="fold", max_width=30)
    for title, _ in columns:
        table.add_column(title, justify="left" if title == "group" else "right", no_wrap=True)
    for title in ("params", "MACs"):
        table.add_column(title, justify="right", no_wrap=True)
    shown = [row for row in report.layers if _is_shown(row)]
    others = [row for row in report.layers if not _is_shown(row)]
    for row in shown:
        cells = [write(row) for _, write in columns]
        table.add_row(row.name, *cells, *_costs(row.before.cost, row.after.cost))
    blank = [""] * len(columns)
    if others:
        before, after = _sums(others)
        name = f"{len(others)} other layers" if len(others) > 1 else others[0].name
        table.add_row(name, *blank, *_costs(before, after))
    table.add_section()
    before, after = (Cost(side.params, side.macs) for side in (report.original, report.compressed))
    table.add_row("network", *blank, *_costs(before, after), style="bold")
    return table


def _is_shown(row: LayerRow) -> bool:
    return bool(row.before.cost.macs)


def _choices(report: Report) -> list[_Column]:
    """Give the columns between a layer's name and its costs: those that have something to say."""
    quantized = figures.is_quantized(report.layers)
    measured = any(row.sensitivities for row in report.layers)
    harms: list[_Column] = [("harm\nprune", _prune_harm), ("harm\ndecomp.", _decompose_harm)]
    ranks: list[_Column] = [("ranks\nin/out", lambda row: figures.ranks(row.after))]
    levels: list[_Column] = [("bits", _bits), ("density", _density)]
    return [
        ("group", lambda row: Text(row.group, style=charts.STYLES.get(row.group, ""))),
        *(harms if measured or not quantized else []),
        ("output\nchannels", lambda row: figures.channels(row.before, row.after)),
        *(ranks if any(figures.ranks(row.after) for row in report.layers) else []),
        *(levels if quantized else []),
    ]


def _prune_harm(row: LayerRow) -> str:
    return figures.harm(figures.harm_at(row, "prune", 0.5))


def _decompose_harm(row: LayerRow) -> str:
    return figures.harm(figures.harm_at(row, "decompose", 0.5))


def _bits(row: LayerRow) -> str:
    return figures.bits(row.after)


def _density(row: LayerRow) -> str:
    return figures.density(row.after)


def _costs(before: Cost, after: Cost) -> tuple[str, str]:
    return (
        figures.arrow(figures.count(before.params), figures.count(after.params)),
        figures.arrow(figures.count(before.macs), figures.count(after.macs)),
    )


def _sums(rows: list[LayerRow]) -> tuple[Cost, Cost]:
    return (
        sum((row.before.cost for row in rows), Cost()),
        sum((row.after.cost for row in rows), Cost()),
    )


def _storage(report: Report) -> Table:
    table = plain_table()
    table.add_column("")
    table.add_column("bytes", justify="right")
    table.add_column("ratio", justify="right")
    for row in storage_rows(report.storage):
        table.add_row(*row)
    return table


def _refusals(report: Report) -> Table:
    table = plain_table()
    table.add_column("action")
    table.add_column("layers", overflow="fold", max_width=34)
    table.add_column("why, and what would help", overflow="fold")
    grouped: dict[tuple[str, str, str], list[Refusal]] = {}
    for refusal in report.refusals:
        grouped.setdefault((refusal.action, refusal.reason, refusal.remedy), []).append(refusal)
    for (action, reason, remedy), members in grouped.items():
        names = figures.named_layers(members, report.layers)
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        table.add_row(
            action, ", ".join(names[:3]) + more, f"{reason}; {remedy}" if remedy else reason
        )
    return table
