"""int8 or not, by the clock: layers that are faster in float, and a limit on latency."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from lissom.clock import Clock, TimeRatio
from lissom.errors import BudgetError, ExportError, MeasureError
from lissom.export.onnx import onnx_content
from lissom.extension import ModelView
from lissom.plan.budget import Limit, Meaning
from lissom.progress import Meter, meter

_TOLERANCE = 0.02  # of a time; two sessions of one file differ by as much
_RESOLUTION = 1_000  # nanoseconds
_GAPS = (1, 2)  # layers that may lie between two that are joined
_STEPS = 4
_NOISE = 0.05  # of a time: two measurements of one network differ by as much

Layers = frozenset[str]


@dataclass(frozen=True, slots=True)
class LayerTime:
    """What a layer takes alone, in nanoseconds.

    Attributes:
        rounded: In int8.
        plain: In float.
    """

    rounded: int
    plain: int

    @property
    def saved(self) -> int:
        """Give what float saves."""
        return self.rounded - self.plain

    @property
    def faster_in_float(self) -> bool:
        """Whether float saves more than nothing, up to what can be told."""
        return self.rounded > self.plain * (1 + _TOLERANCE) + _RESOLUTION


def float_by_time(
    clock: Clock,
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    layers: Sequence[str],
    write: Callable[[Layers], bytes],
) -> tuple[Layers, dict[str, Any]]:
    """Choose the layers that stay float because the file is faster so.

    Kernels for integers are not faster for every layer: those of ONNX Runtime lose where there are
    few channels (the first layer), and in grouped and depthwise convolutions. Those layers are
    found by their own times, in order of what float saves; how many of them pay in the network,
    where the way to int8 and back costs, running the files tells.

    Args:
        clock: In int8, with one for float32 beside it.
        network: In eval mode.
        inputs: Of the network, batch in front.
        layers: That could compute in int8, in the order in which they run.
        write: Gives the file in which these layers compute in int8.

    Returns:
        The layers, none where that is not faster for certain, or can't be told; and what was
        measured, JSON-ready.
    """
    try:
        times = _times(clock, network, inputs, layers)
        with meter("int8 or float", None) as bar:
            return _chosen(clock, times, layers, _counted(write, bar))
    except (ExportError, MeasureError) as error:
        return frozenset(), {"not_checked": str(error)}


def _counted(write: Callable[[Layers], bytes], bar: Meter) -> Callable[[Layers], bytes]:
    def written(layers: Layers) -> bytes:
        bar.advance(note=f"{len(layers)} layers in int8")
        return write(layers)

    return written


def _chosen(
    clock: Clock,
    times: dict[str, LayerTime],
    layers: Sequence[str],
    write: Callable[[Layers], bytes],
) -> tuple[Layers, dict[str, Any]]:
    everything = frozenset(layers)
    nested = [floats for floats in _nested(times) if floats != everything]
    if not nested:
        return frozenset(), {}
    reference = write(everything)

    def measured(floats: Layers) -> TimeRatio:
        return clock.file_ratio(write(everything - floats), reference)

    tried = {floats: measured(floats) for floats in nested}
    best = _fastest(tried)
    for _ in range(_STEPS):
        wider = set(_wider(layers, best)) - tried.keys() - {everything}
        if not wider:
            break
        tried |= {floats: measured(floats) for floats in sorted(wider, key=len)}
        best = _fastest(tried)
    # Of several the fastest looks faster than it is: only a measurement of its own tells.
    ratio = measured(best)
    pays = ratio.high < 1 - _TOLERANCE
    chosen = best if pays else frozenset[str]()
    return chosen, {
        "layers": sorted(chosen),
        "times": {name: asdict(one) for name, one in times.items() if one.faster_in_float},
        "tried": [{"layers": len(floats), **asdict(one)} for floats, one in tried.items()],
        "ratio": asdict(ratio),
    }


def _times(
    clock: Clock, network: nn.Module, inputs: tuple[Tensor, ...], layers: Sequence[str]
) -> dict[str, LayerTime]:
    """Time the layers alone in both formats; what is no module of the network is left out."""
    shapes, plain = _input_shapes(network, inputs), clock.plain
    times: dict[str, LayerTime] = {}
    for name in layers:
        owner = name.partition("#")[0]
        if owner in shapes:
            layer, shape = copy.deepcopy(network.get_submodule(owner)).to("meta"), shapes[owner]
            times[name] = LayerTime(
                clock.nanoseconds(layer, shape), plain.nanoseconds(layer, shape)
            )
    return times


def _input_shapes(network: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, tuple[int, ...]]:
    """Give the shapes, without batch, at the first calls of what can be timed by itself."""
    found: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(layer: nn.Module, given: tuple[Any, ...]) -> None:
            axes = 4 if isinstance(layer, nn.Conv2d) else 2
            if given and isinstance(given[0], Tensor) and given[0].ndim >= axes:
                found.setdefault(name, tuple(given[0].shape[1:]))

        return hook

    hooks = [
        module.register_forward_pre_hook(note(name))
        for name, module in network.named_modules()
        if type(module) in (nn.Conv2d, nn.Linear)
    ]
    try:
        with torch.no_grad():
            network(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _nested(times: dict[str, LayerTime]) -> Iterator[Layers]:
    """Give ever more layers, those first that save most; layers of one kind go together."""
    kinds: dict[LayerTime, set[str]] = {}
    for name, one in times.items():
        if one.faster_in_float:
            kinds.setdefault(one, set()).add(name)
    floats: Layers = frozenset()
    for one in sorted(kinds, key=lambda kind: kind.saved, reverse=True):
        floats |= kinds[one]
        yield floats


def _wider(layers: Sequence[str], floats: Layers) -> Iterator[Layers]:
    """Join float layers that few others part, or let each go on for a layer before or behind it."""
    places = [place for place, name in enumerate(layers) if name in floats]
    for gap in _GAPS:
        parted = (layers[one:two] for one, two in pairwise(places) if two - one <= gap + 1)
        yield floats.union(*parted)
    yield floats.union(*(layers[place : place + 2] for place in places))
    yield floats.union(*(layers[max(place - 1, 0) : place] for place in places))


def _fastest(tried: dict[Layers, TimeRatio]) -> Layers:
    return min(tried, key=lambda floats: tried[floats].median)


def check_time(view: ModelView, limit: Limit | None, content: bytes) -> dict[str, Any]:
    """Refuse a file that takes longer than it may; after other stages' work say so instead.

    Args:
        view: Of the network.
        limit: On latency; None: nothing is asked.
        content: The file.

    Returns:
        As ``tell_time``.

    Raises:
        BudgetError: The original takes longer in int8, by more than two measurements of one network
            differ; or there is no clock.
    """
    if view.original is not None and view.original is not view.model:
        return tell_time(view, limit, content)
    found = _time_of(view, limit, content)
    if found.get("above"):
        raise BudgetError(
            f"{found['above']} Allow more, keep fewer layers in float (keep_float, max_drop), or "
            "let hmc or edp, held to the same limit, come before"
        )
    return found


def tell_time(view: ModelView, limit: Limit | None, content: bytes) -> dict[str, Any]:
    """Say where a file takes longer than it may, so that no work is lost.

    Args:
        view: Of the network.
        limit: On latency; None: nothing is asked.
        content: The file.

    Returns:
        What it takes as a share of the original's time, and in ``above`` by how much that is too
        much, "" where it is not; JSON-ready. Empty where nothing is asked.

    Raises:
        BudgetError: There is no clock.
    """
    found = _time_of(view, limit, content)
    if found.get("above"):
        view.say(found["above"])
    return found


def _time_of(view: ModelView, limit: Limit | None, content: bytes) -> dict[str, Any]:
    if limit is None:
        return {}
    if view.clock is None:
        raise BudgetError(
            f"budget: latency={limit.text}: nothing can be timed here; run through compress(), or "
            "give the ModelView a clock"
        )
    original = view.model if view.original is None else view.original
    ratio = view.clock.file_ratio(content, onnx_content(original, view.example_inputs)[0])
    allowed = limit.value
    if limit.meaning is Meaning.ABSOLUTE:
        allowed /= view.clock.plain.milliseconds(original, original)[1]
    above = ""
    if ratio.median > allowed * (1 + _NOISE):
        above = (
            f"budget: latency={limit.text} asks for {allowed:.2f} of the original's time; in int8 "
            f"the network takes {ratio} of it on this machine."
        )
    return {"time_of_original": asdict(ratio), "above": above}
