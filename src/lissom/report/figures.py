"""Numbers as text, the same way in every view."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from lissom.graph.layers import Refusal
from lissom.report.measured import MetricValue
from lissom.report.report import LayerRow, LayerState

NONE = "–"
_STEPS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def count(value: float | None) -> str:
    """Write a count with four digits: 170, 2.304k, 62.75M."""
    if value is None:
        return NONE
    for step, unit in _STEPS:
        # 999.95k would be printed as 1000k.
        if abs(value) >= step * 0.99995:
            return f"{_four(value / step)}{unit}"
    return f"{value:.0f}"


def byte_size(value: float | None) -> str:
    """Write bytes in decimal units: 812 B, 10.1 kB, 3.44 MB."""
    if value is None:
        return NONE
    for step, unit in _STEPS:
        if abs(value) >= step:
            return f"{value / step:.3g} {unit}B"
    return f"{value:.0f} B"


def milliseconds(value: float | None) -> str:
    """Write a time in milliseconds with three digits."""
    return NONE if value is None else f"{value:.3g} ms"


def quartiles(latency: Mapping[str, Any]) -> str:
    """Write the spread of a latency: 2.38–2.5."""
    low, high = latency.get("quartile_low_ms"), latency.get("quartile_high_ms")
    return "" if low is None or high is None else f"{low:.3g}–{high:.3g}"


def conditions(latency: Mapping[str, Any]) -> str:
    """Write under what a latency was measured."""
    names = ("runtime", "batch", "threads", "runs")
    known = [(name, latency[name]) for name in names if name in latency]
    return ", ".join(
        str(value) if name == "runtime" else f"{name} {value}" for name, value in known
    )


def predicted_latency(latency: Mapping[str, Any]) -> str:
    """Write how a latency compares with the original's, and how well it was predicted."""
    if "ratio" not in latency:
        return ""
    low, high = latency["ratio_low"], latency["ratio_high"]
    text = f"{latency['ratio']:.2f} ({low:.2f} to {high:.2f}) of the original's in turn"
    if "predicted_ms" not in latency:
        return text
    off = f"{100 * latency['prediction_error']:+.0f} %"
    return f"{text}; {milliseconds(latency['predicted_ms'])} ({off}) predicted from its layers"


def ratio(before: float | None, after: float | None) -> str:
    """Write original / compressed: 2.44×."""
    return NONE if not before or not after else f"{before / after:.2f}×"


def compared(before: float | None, after: float | None, less: str, more: str) -> str:
    """Write a change in words, never as a ratio below 1: 2.44× faster, 1.02× slower."""
    if not after or not before:
        return NONE
    shrunk = f"{before / after:.2f}×"
    if shrunk == "1.00×":
        return "unchanged"
    return f"{shrunk} {less}" if before > after else f"{after / before:.2f}× {more}"


def metric(like: MetricValue | None, value: float | None) -> str:
    """Write a value of the metric ``like``; fractions in percent."""
    if like is None or value is None:
        return NONE
    return f"{100 * value:.2f} %" if like.unit == "fraction" else f"{value:.4g} {like.unit}"


def change(like: MetricValue | None, before: float | None, after: float | None) -> str:
    """Write the difference of two values of a metric; of fractions in points."""
    if like is None or before is None or after is None:
        return NONE
    if like.unit == "fraction":
        return f"{100 * (after - before):+.2f} points".replace("-", "−")
    return f"{after - before:+.3g} {like.unit}".replace("-", "−")


def share(value: float) -> str:
    """Write a fraction of a whole in percent: 55 %, 41.3 %."""
    return f"{100 * value:.3g} %"


def harm(value: float | None) -> str:
    """Write a sensitivity with two digits."""
    return NONE if value is None else f"{value:.2g}"


def harm_at(row: LayerRow, family: str, fraction: float) -> float | None:
    """Give the measured harm of the point nearest to ``fraction`` of MACs removed."""
    points = row.sensitivities.get(family, ())
    return min(points, key=lambda point: abs(point[0] - fraction))[1] if points else None


def is_quantized(rows: Iterable[LayerRow]) -> bool:
    """Tell whether a layer is levels times a scale."""
    return any(row.after.weight_bits is not None for row in rows)


def bits(state: LayerState) -> str:
    """Write the bits of a level that is not zero."""
    return NONE if state.weight_bits is None else str(state.weight_bits)


def density(state: LayerState) -> str:
    """Write the share of levels that are not zero."""
    return NONE if state.density is None else share(state.density)


def merging(section: Mapping[str, Any]) -> str:
    """Write what merging changed, as a method that trains measured it; "" if it did not.

    Args:
        section: What the method learned.
    """
    before, after = (section.get(f"accuracy_{when}_merge") for when in ("before", "after"))
    if before is None or after is None:
        return ""
    return f"accuracy right before merging {before:.4f}, right after {after:.4f}"


def arrow(before: str, after: str) -> str:
    """Write a change, or the value alone if there is none."""
    return before if before == after else f"{before}→{after}"


def channels(before: LayerState, after: LayerState) -> str:
    """Write how the output channels change; to 0 where the layer is gone."""
    if before.out_channels is None:
        return NONE
    return arrow(str(before.out_channels), str(after.out_channels or 0))


def ranks(state: LayerState) -> str:
    """Write the ranks of a decomposed layer: 8/16 of both modes, 8 of one."""
    return "/".join(str(rank) for rank in (state.rank_in, state.rank_out) if rank is not None)


def named_layers(refusals: Iterable[Refusal], rows: Iterable[LayerRow]) -> list[str]:
    """Name the layers of refusals; those of a kind that no method works on are only counted.

    Args:
        refusals: Of one action and reason.
        rows: All layers.
    """
    kinds = {row.name: row.kind for row in rows}
    names: list[str] = []
    counts: Counter[str] = Counter()
    for refusal in refusals:
        kind = kinds.get(refusal.layer, "conv")
        if kind.startswith(("conv", "linear")):
            names.append(refusal.layer)
        else:
            counts[kind] += 1
    return [*names, *(f"{number} × {kind}" for kind, number in counts.items())]


def listed(values: Mapping[str, Any]) -> str:
    """Write names and values, nested ones in brackets."""
    return ", ".join(f"{name} {_short(value)}" for name, value in values.items())


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({listed(value)})"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_short(entry) for entry in value) + "]"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """Write a wall time: 21.5 s, 5 min 0 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"


def _four(value: float) -> str:
    digits = 3 if abs(value) < 9.9995 else 2 if abs(value) < 99.995 else 1
    return f"{value:.{digits}f}"
