"""The report's charts as files of their own, for papers and slides."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from html import escape
from importlib.resources import files

from lissom.plan.cost import Cost
from lissom.report import charts
from lissom.report.report import LayerRow, Report

FAMILIES = {"prune": "pruning", "decompose": "decomposition"}
_WIDTH, _MARGIN = 1000, 20
_LINE = 26  # height of a legend or a caption
_COLUMNS = 6


def drawings(report: Report) -> dict[str, str]:
    """Draw what there is to draw, each as a whole SVG file in light colours.

    Returns:
        By file name: ``layers.svg`` (groups and costs over the depth of the network) and, where
        sensitivities were measured, ``sensitivities.svg``.
    """
    drawn = {"layers.svg": _layers(report)}
    units = units_of(report.layers)
    if units:
        drawn["sensitivities.svg"] = _sensitivities(units)
    return drawn


def units_of(rows: Iterable[LayerRow]) -> dict[str, LayerRow]:
    """Give one row per unit whose sensitivities are known: its layers share the curves."""
    units: dict[str, LayerRow] = {}
    for row in rows:
        if row.sensitivities:
            units.setdefault(row.unit or row.name, row)
    return units


def legend_of(rows: Iterable[LayerRow]) -> dict[str, str]:
    """Name the colours that the layers have, and the pale one of what was before."""
    present = {charts.colour(row) for row in rows}
    groups = {name: name for name in charts.GROUPS if name in present}
    others = {"none": "no group" if groups else "after"} if "none" in present else {}
    return groups | others | {"ghost": "before"}


def layers_with_macs(report: Report) -> list[LayerRow]:
    """Give the layers that compute, in execution order."""
    return [row for row in report.layers if row.before.cost.macs]


def macs(cost: Cost) -> int:
    """Pick the MACs."""
    return cost.macs


def params(cost: Cost) -> int:
    """Pick the parameters."""
    return cost.params


def styles(*names: str) -> str:
    """Give style sheets of the report, one after the other: ``palette``, ``page``, ``chart``."""
    folder = files("lissom.report")
    return "".join(folder.joinpath(f"{name}.css").read_text(encoding="utf-8") for name in names)


def _layers(report: Report) -> str:
    rows = layers_with_macs(report)
    legend = legend_of(rows)
    parts = [charts.group_map(rows)] if set(legend) & set(charts.GROUPS) else []
    parts += [charts.cost_bars(rows, "MACs", macs), charts.cost_bars(rows, "parameters", params)]
    body, y = [_legend(legend)], float(_LINE)
    for chart in parts:
        placed, height = _placed(chart, 0, y, _WIDTH)
        body.append(placed)
        y += height
    return _file("".join(body), y)


def _sensitivities(units: Mapping[str, LayerRow]) -> str:
    limits = charts.harm_range([row.sensitivities for row in units.values()])
    axis = "harm, {:g} to {:g}, over the fraction of MACs removed".format(*limits)
    width = _WIDTH / _COLUMNS
    body, y, height = [_legend(FAMILIES, axis)], float(_LINE), 0.0
    for number, (name, row) in enumerate(units.items()):
        column = number % _COLUMNS
        if number and column == 0:
            y += height + _LINE
        chart = charts.harm_curves(row.sensitivities, limits)
        placed, height = _placed(chart, column * width, y, width - 8)
        caption = f'x="{column * width + 8:.1f}" y="{y + height + 12:.1f}"'
        body.append(f"{placed}<text {caption}>{escape(name)}</text>")
    return _file("".join(body), y + height + _LINE)


def _legend(entries: Mapping[str, str], words: str = "") -> str:
    parts, x = [], 0.0
    for key, text in entries.items():
        look = "ghost" if key == "ghost" else f"fill-{key}"
        parts.append(f'<rect class="{look}" x="{x:.0f}" y="2" width="10" height="10" rx="2"/>')
        parts.append(f'<text x="{x + 15:.0f}" y="11">{escape(text)}</text>')
        x += 15 + 7 * len(text) + 18
    return "".join(parts) + (f'<text x="{x:.0f}" y="11">{escape(words)}</text>' if words else "")


def _placed(chart: str, x: float, y: float, width: float) -> tuple[str, float]:
    """Put a chart into a drawing; give it and its height."""
    found = re.match(r'<svg viewBox="0 0 ([\d.]+) ([\d.]+)"', chart)
    assert found is not None
    height = width * float(found[2]) / float(found[1])
    place = f'<svg x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
    return chart.replace("<svg ", place, 1), height


def _file(body: str, height: float) -> str:
    """Give a whole file: programs that show SVG know neither variables nor dark screens."""
    light = styles("palette").partition("@media")[0]
    colours = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", light))
    rules = re.sub(r"var\(--([a-z]+)\)", lambda name: colours[name[1]], styles("chart"))
    full, tall = _WIDTH + 2 * _MARGIN, height + 2 * _MARGIN
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{full}" height="{tall:.0f}" '
        f'viewBox="{-_MARGIN} {-_MARGIN} {full} {tall:.1f}" font-family="sans-serif">\n'
        f"<style>\n{rules}</style>\n"
        f'<rect x="{-_MARGIN}" y="{-_MARGIN}" width="{full}" height="{tall:.1f}" '
        f'fill="{colours["paper"]}"/>\n{body}\n</svg>\n'
    )
