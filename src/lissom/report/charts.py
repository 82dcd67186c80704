"""Charts of a report as inline SVG; colours come from the page's style."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from lissom.plan.cost import Cost
from lissom.report import figures
from lissom.report.report import LayerRow

STYLES = {"decompose": "blue", "prune": "yellow", "both": "magenta", "drop": "red", "keep": "dim"}
GROUPS = tuple(STYLES)
_WIDTH = 1000
_LEFT = 52  # room for the numbers of the axis
_BAR_HEIGHT = 150
_CURVE_WIDTH, _CURVE_HEIGHT = 150, 92

Curves = Mapping[str, Sequence[tuple[float, float | None]]]


def colour(row: LayerRow) -> str:
    """Give the part of a class name that stands for the row's group."""
    return row.group if row.group in GROUPS else "none"


def group_map(rows: Sequence[LayerRow]) -> str:
    """Draw one field per layer, in execution order, in the colour of its group."""
    step = (_WIDTH - _LEFT) / max(len(rows), 1)
    fields = "".join(
        f'<rect class="fill-{colour(row)}" x="{_LEFT + index * step:.2f}" y="4" '
        f'width="{_inner(step):.2f}" height="26" rx="2"><title>{escape(_tip(row))}</title></rect>'
        for index, row in enumerate(rows)
    )
    return _svg(_WIDTH, 34, fields + '<text x="0" y="21">group</text>')


def cost_bars(rows: Sequence[LayerRow], what: str, quantity: Callable[[Cost], int]) -> str:
    """Draw what each layer cost before (pale) and costs after (in the colour of its group).

    Args:
        rows: Layers in execution order.
        what: Label of the axis.
        quantity: Picks the cost to draw.
    """
    top = max((max(quantity(row.before.cost), quantity(row.after.cost)) for row in rows), default=0)
    step = (_WIDTH - _LEFT) / max(len(rows), 1)
    scale = _BAR_HEIGHT / (top or 1)
    parts = [_grid(top, scale), f'<text x="{_LEFT}" y="13">{escape(what)}</text>']
    for index, row in enumerate(rows):
        x = _LEFT + index * step
        tip = f"<title>{escape(_tip(row))}</title>"
        for cost, look in ((row.before.cost, "ghost"), (row.after.cost, f"fill-{colour(row)}")):
            height = quantity(cost) * scale
            # The new bar is narrower, so that it never hides an old one of the same height.
            inset = 0.0 if look == "ghost" else _inner(step) * 0.18
            parts.append(
                f'<rect class="{look}" x="{x + inset:.2f}" y="{20 + _BAR_HEIGHT - height:.2f}" '
                f'width="{_inner(step) - 2 * inset:.2f}" height="{height:.2f}">{tip}</rect>'
            )
    return _svg(_WIDTH, _BAR_HEIGHT + 26, "".join(parts))


def harm_range(curves: Sequence[Curves]) -> tuple[float, float]:
    """Give the smallest and largest positive harm of all curves, as powers of ten around them."""
    values = [
        value
        for curve in curves
        for points in curve.values()
        for _, value in points
        if value is not None and value > 0
    ]
    if not values:
        return 1e-3, 1.0
    low, high = (math.log10(pick(values)) for pick in (min, max))
    return 10.0 ** math.floor(low), 10.0 ** max(math.ceil(high), math.floor(low) + 1)


def harm_curves(curves: Curves, limits: tuple[float, float]) -> str:
    """Draw harm (logarithmic) over the fraction of MACs removed, one line per family.

    Args:
        curves: Points per family.
        limits: Smallest and largest harm of the axis.
    """
    low, high = (math.log10(limit) for limit in limits)

    def spot(fraction: float, value: float) -> tuple[float, float]:
        level = (math.log10(max(value, limits[0])) - low) / (high - low)
        return 8 + fraction * (_CURVE_WIDTH - 16), 6 + (1 - level) * (_CURVE_HEIGHT - 22)

    parts = [
        f'<line class="axis" x1="8" x2="{_CURVE_WIDTH - 8}" y1="{y}" y2="{y}"/>'
        for y in (6, _CURVE_HEIGHT - 16)
    ]
    for family, points in curves.items():
        spots = [spot(fraction, value) for fraction, value in points if value is not None]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        parts.append(f'<polyline class="line-{escape(family)}" points="{line}"/>')
        parts += [
            f'<circle class="fill-{escape(family)}" cx="{x:.1f}" cy="{y:.1f}" r="2.2"/>'
            for x, y in spots
        ]
    labels = (("0", 8, "start"), ("½", _CURVE_WIDTH / 2, "middle"), ("1", _CURVE_WIDTH - 8, "end"))
    parts += [
        f'<text x="{x}" y="{_CURVE_HEIGHT - 3}" text-anchor="{anchor}">{text}</text>'
        for text, x, anchor in labels
    ]
    return _svg(_CURVE_WIDTH, _CURVE_HEIGHT, "".join(parts))


def course(
    records: Sequence[Mapping[str, Any]],
    series: Mapping[str, str],
    what: str,
    write: Callable[[float], str],
) -> str:
    """Draw values over the progress of a training, one line per series; "" if there is none.

    Args:
        records: In order, each with ``progress`` in [0, 1] and values by name; None is left out.
        series: Per name of a value the colour of its line.
        what: Label of the axis.
        write: Makes the numbers of the axis.
    """
    known = [one for one in records if one.get("progress") is not None]
    lines = {
        name: [(one["progress"], one[name]) for one in known if one.get(name) is not None]
        for name in series
    }
    top = max((value for points in lines.values() for _, value in points), default=0)
    if top <= 0:
        return ""
    scale = _BAR_HEIGHT / top
    parts = [_grid(top, scale, write), f'<text x="{_LEFT}" y="13">{escape(what)}</text>']
    for name, points in lines.items():
        spots = " ".join(
            f"{_LEFT + progress * (_WIDTH - _LEFT):.1f},{20 + _BAR_HEIGHT - value * scale:.1f}"
            for progress, value in points
        )
        if spots:
            parts.append(f'<polyline class="line-{series[name]}" points="{spots}"/>')
    parts += [
        f'<text x="{x}" y="{_BAR_HEIGHT + 36}" text-anchor="{anchor}">{text}</text>'
        for text, x, anchor in (("start", _LEFT, "start"), ("end of training", _WIDTH, "end"))
    ]
    return _svg(_WIDTH, _BAR_HEIGHT + 42, "".join(parts))


def _grid(top: float, scale: float, write: Callable[[float], str] = figures.count) -> str:
    lines = []
    for part in (0.0, 0.5, 1.0):
        y = 20 + _BAR_HEIGHT - part * top * scale
        lines.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        label = write(part * top) if part else "0"
        lines.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    return "".join(lines)


def _inner(step: float) -> float:
    return max(step - min(4.0, step * 0.22), 0.5)


def _tip(row: LayerRow) -> str:
    before, after = row.before.cost, row.after.cost
    return (
        f"{row.name}: {row.decision or 'unchanged'}\n"
        f"MACs {figures.arrow(figures.count(before.macs), figures.count(after.macs))}\n"
        f"params {figures.arrow(figures.count(before.params), figures.count(after.params))}"
    )


def _svg(width: float, height: float, body: str) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img">{body}</svg>'
