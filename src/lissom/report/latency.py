"""A comparison of latencies as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from lissom.report import figures
from lissom.report.terminal import plain_table


def layout(latencies: Mapping[str, Mapping[str, Any]], sizes: Mapping[str, int]) -> RenderableType:
    """Give what rich prints.

    Args:
        latencies: By network what ``Latency.to_dict`` gives; the first is what the others are
            compared with.
        sizes: By network the bytes of its file.
    """
    table = plain_table()
    table.add_column("")
    for name in ("median", "quartiles, ms", "faster", "file", "smaller"):
        table.add_column(name, justify="right")
    first = next(iter(latencies))
    for name, latency in latencies.items():
        table.add_row(
            name,
            figures.milliseconds(latency["median_ms"]),
            figures.quartiles(latency),
            figures.ratio(latencies[first]["median_ms"], latency["median_ms"]),
            figures.byte_size(sizes[name]),
            figures.ratio(sizes[first], sizes[name]),
        )
    stated = figures.conditions(next(iter(latencies.values())))
    return Group(table, Text(), Text(f"{stated}; the networks took turns."))
