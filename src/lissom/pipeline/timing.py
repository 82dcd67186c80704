"""How long the two networks of a run take: measured in turn, and predicted from their layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from lissom.clock import TimeRatio
from lissom.errors import MeasureError
from lissom.extension import Method
from lissom.measure.clock import RuntimeClock
from lissom.measure.guessed_int8 import GuessedInt8
from lissom.measure.latency import latency_of, time_ratio
from lissom.measure.runtime import Runnable
from lissom.pipeline.settings import Settings

_NAMED = 3  # decisions that a remark names

Latencies = list[dict[str, Any]]


def clock_of(
    settings: Settings, inputs: Sequence[Tensor], methods: Sequence[Method] = ()
) -> RuntimeClock:
    """Give a run's clock.

    Args:
        settings: Runtime, batch, threads; where measured times are kept.
        inputs: Of the network, with the batch in front.
        methods: Of a run; where one ends it in int8, networks are timed in int8.

    Raises:
        ExportError: The runtime is not installed.
        RecipeError: It does not run in int8.
    """
    rounded = any(getattr(method, "in_int8", False) for method in methods)
    int8 = GuessedInt8(frozenset(settings.ignore)) if rounded else None
    return RuntimeClock(settings.latency, inputs, settings.cache or settings.workspace, int8)


def latencies(
    given: Sequence[Runnable], networks: tuple[nn.Module, nn.Module], clock: RuntimeClock
) -> Latencies:
    """Time the original, the compressed network and what else there is beside each other.

    The compressed network's time is predicted, too: the original's, in the proportion of what the
    weight layers of both take one by one.

    Args:
        given: Both networks, and others.
        networks: Both.
        clock: Measures.

    Returns:
        Per network what ``Latency.to_dict`` gives, and ``layers_ms``, the sum over its weight
        layers. Of all but the original ``ratio``, ``ratio_low``, ``ratio_high`` (``TimeRatio``, to
        the original); of the others ``ratio_to_compressed``; of the compressed network
        ``predicted_ms`` and ``prediction_error`` (predicted / measured - 1). On a machine too busy
        to time single layers, or without one, ``not_predicted`` says so instead.

    Raises:
        ExportError: The runtime can't run one.
        MeasureError: It runs no files, and one of the others is nothing else.
    """
    times = clock.run(dict(enumerate(given)))
    before, *others = (latency_of(one, clock.conditions).to_dict() for one in times.values())
    for place, other in enumerate(others, start=1):
        ratio = time_ratio(times[place], times[0])
        other |= {"ratio": ratio.median, "ratio_low": ratio.low, "ratio_high": ratio.high}
        if place > 1:
            other["ratio_to_compressed"] = asdict(time_ratio(times[place], times[1]))
    after = others.pop(0)
    try:
        layers = tuple(map(clock.layers_ms, networks))
    except MeasureError as error:
        return [before, after | {"not_predicted": str(error)}, *others]
    if not layers[0]:
        return [before, after | {"not_predicted": "no layer can be timed by itself"}, *others]
    predicted = before["median_ms"] * layers[1] / layers[0]
    after |= {"layers_ms": layers[1], "predicted_ms": predicted}
    after["prediction_error"] = predicted / after["median_ms"] - 1
    return [before | {"layers_ms": layers[0]}, after, *others]


def slowness(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """Say so, and why, where what a run gives is slower than the original for certain.

    Args:
        before: Of the original, from ``latencies``.
        after: Of the compressed network, or of its file in int8.
    """
    ratio = TimeRatio(after["ratio"], after["ratio_low"], after["ratio_high"])
    if not ratio.slower:
        return
    yield f"the compressed network takes {ratio} of the original's time{_why(before, after)}"


def outpaced(int8: Mapping[str, Any]) -> Iterator[str]:
    """Say so where the file in int8 is slower than the one in float32.

    Args:
        int8: Of the file, from ``latencies``.
    """
    ratio = TimeRatio(**int8["ratio_to_compressed"])
    if ratio.slower:
        yield (
            f"model-int8.onnx takes {ratio} of the time of model.onnx on this machine: serve that "
            "one here, or keep layers in float (keep_float)"
        )


def unpaid(evidence: Mapping[str, Any]) -> Iterator[str]:
    """Say which decisions cost time all the same, or why nobody knows.

    Args:
        evidence: Of a stage's proposal.
    """
    found = evidence.get("never_slower", {})
    if "not_checked" in found:
        yield f"which decisions cost time is not known: {found['not_checked']}"
    slow = found.get("taken_all_the_same", ())
    if slow:
        named = ", ".join(str(one["name"]) for one in slow[:_NAMED])
        more = f" and {len(slow) - _NAMED} more" if len(slow) > _NAMED else ""
        yield (
            f"{named}{more}: slower than what they replace, but without them nothing is within the "
            "budget; the network as a whole is not slower"
        )


def _why(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    if "layers_ms" not in before or "layers_ms" not in after:
        return ""
    old, new = before["layers_ms"], after["layers_ms"]
    if new > old:
        return f": its weight layers take {new:.3g} instead of {old:.3g} ms"
    rest = after["median_ms"] - new, before["median_ms"] - old
    return (
        f", though its weight layers take {new:.3g} instead of {old:.3g} ms: all else, such as "
        f"conversions between memory layouts, takes {rest[0]:.3g} instead of {rest[1]:.3g} ms"
    )
