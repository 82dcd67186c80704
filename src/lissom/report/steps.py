"""The steps of a run, as rows of a table that every view shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from lissom.report import figures
from lissom.report.measured import MetricValue, StepRow
from lissom.report.report import Report

NOTE = (
    "Each step decides anew on the network that the one before left; the last one is what the "
    "report measures."
)
BRANCHES_NOTE = (
    "In the order they were judged in: each harms as much as it adds to those before it, at no "
    "lower a price than theirs."
)
_NUMBERS = (2, 3, 4, 5, 6)


def step_head(like: MetricValue | None) -> tuple[str, ...]:
    """Give the titles of the columns.

    Args:
        like: The metric; None where there is none.
    """
    name = "metric" if like is None else like.name
    titles = ("step", "asked at most", "MACs", "params", "epochs")
    return (*titles, f"{name} before recovery", f"{name} after")


def step_cells(row: StepRow, like: MetricValue | None) -> tuple[str, ...]:
    """Give what stands under them.

    Args:
        row: One step.
        like: The metric; None where there is none.
    """
    several = f" {row.iteration}/{row.iterations}" if row.iterations > 1 else ""
    return (
        f"{row.method}{several}",
        asked_text(row.asked),
        figures.count(row.macs),
        figures.count(row.params),
        f"{row.epochs}",
        figures.metric(like, row.metric_raw),
        figures.metric(like, row.metric),
    )


def metric_rows(report: Report) -> Iterator[tuple[str, str, str, str]]:
    """Give label, the original's value, the network's, and the change; nothing without a metric.

    What a run of several steps had before recovery stands with each step.

    Args:
        report: Of a run.
    """
    before, after = report.original.metric, report.compressed.metric
    like = after or before
    if like is None:
        return
    start = before.value if before else None
    values = [("before recovery", report.compressed.metric_raw)] if not report.steps else []
    values.append(("after recovery", after.value if after else None))
    for when, value in values:
        yield (
            f"{like.name} {when}",
            figures.metric(like, start),
            figures.metric(like, value),
            figures.change(like, start, value),
        )


def dropped_branches(report: Report) -> list[str]:
    """Name the residual branches that went as a whole, in the order of the steps.

    Args:
        report: Of a run.
    """
    return [name for step in _evidence(report) for name in step.get("dropped", {})]


def judged_branches(report: Report) -> Iterator[tuple[str, str, str, str]]:
    """Give each residual branch that could go: name, harm, what it saves, whether it went.

    Args:
        report: Of a run.
    """
    for step in _evidence(report):
        for row in step.get("branches", ()):
            saves = row["saves"]
            amount = figures.milliseconds(saves["ms"]) if saves["ms"] else f"{saves['macs']:,} MACs"
            yield row["name"], figures.harm(row["harm"]), amount, "yes" if row["dropped"] else ""


def _evidence(report: Report) -> Iterator[Mapping[str, Any]]:
    """Give what each step that has no section of its own decided on."""
    for step in report.evidence.get("steps") or [report.evidence]:
        if step is not None:
            yield step.get("method", {})


def asked_text(asked: Mapping[str, float | str]) -> str:
    """Write limits: macs 25.1M, params 80k.

    Args:
        asked: By quantity, as in ``StepRow``.
    """
    return ", ".join(f"{name} {_amount(name, limit)}" for name, limit in asked.items())


def filled(table: Table, rows: Sequence[StepRow], like: MetricValue | None) -> Table:
    """Fill an empty table of the terminal; of a run that lies ahead without what is measured.

    Args:
        table: Without columns.
        rows: The steps.
        like: The metric; None where nothing has been measured.
    """
    columns = range(7) if any(row.macs is not None for row in rows) else (0, 1, 4)
    head = step_head(like)
    for column in columns:
        title = head[column].replace(" before ", " before\n")
        table.add_column(title, justify="right" if column in _NUMBERS else "left")
    for row in rows:
        cells = step_cells(row, like)
        table.add_row(*(cells[column] for column in columns))
    return table


def _amount(quantity: str, limit: float | str) -> str:
    if isinstance(limit, str):
        return limit
    if quantity == "size":
        return figures.byte_size(limit)
    unit = {"max_drop": "points", "latency": "ms"}.get(quantity)
    return figures.count(limit) if unit is None else f"{limit:g} {unit}"
