"""Latency of networks beside each other: interleaved, warmed up, median and quartiles."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import quantiles
from typing import Any

from torch import Tensor

from lissom.export.runtime import RUNTIME, OnnxSession


@dataclass(frozen=True, slots=True)
class Conditions:
    """Under what a latency is measured.

    Attributes:
        batch: Samples per call.
        threads: Threads of the runtime.
        runs: Timed calls per network.
        warmup: Calls per network before the first timed one.
        runtime: Name and version of what runs the network.
    """

    batch: int = 1
    threads: int = 1
    runs: int = 50
    warmup: int = 10
    runtime: str = RUNTIME

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("threads", 1), ("runs", 2), ("warmup", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Latency:
    """Time of one call of a network, in milliseconds.

    Attributes:
        median_ms: Median over the runs.
        quartile_low_ms: A quarter of the runs were faster.
        quartile_high_ms: A quarter of the runs were slower.
        conditions: Batch, threads, runs, runtime.
    """

    median_ms: float
    quartile_low_ms: float
    quartile_high_ms: float
    conditions: Conditions

    def to_dict(self) -> dict[str, Any]:
        """Give figures and conditions in one flat dict."""
        figures = {
            "median_ms": self.median_ms,
            "quartile_low_ms": self.quartile_low_ms,
            "quartile_high_ms": self.quartile_high_ms,
        }
        return figures | asdict(self.conditions)


def compare_latency(
    calls: Mapping[str, Callable[[], object]], conditions: Conditions
) -> dict[str, Latency]:
    """Time several calls in turn (A B A B ...): a machine that slows down slows all of them.

    Args:
        calls: What to time, by name; each must do the same amount of work at every call.
        conditions: Runs and warm-up; the rest is passed on to the result as it is.
    """
    for _ in range(conditions.warmup):
        for call in calls.values():
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(conditions.runs):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: _latency(values, conditions) for name, values in times.items()}


def onnx_latency(
    files: Mapping[str, Path], inputs: Sequence[Tensor], conditions: Conditions
) -> dict[str, Latency]:
    """Time ONNX files beside each other in ONNX Runtime on the CPU.

    Args:
        files: ONNX files by name; all take the same inputs.
        inputs: The inputs with ``conditions.batch`` samples.
        conditions: Threads, runs, warm-up.

    Raises:
        ExportError: A file can't be loaded, or takes other inputs.
    """
    calls: dict[str, Callable[[], object]] = {}
    for name, path in files.items():
        session = OnnxSession(path, threads=conditions.threads)
        session(*inputs)
        calls[name] = partial(session.run_arrays, session.feed(inputs))
    return compare_latency(calls, conditions)


def _latency(times: Sequence[float], conditions: Conditions) -> Latency:
    low, median, high = quantiles(times, n=4, method="inclusive")
    return Latency(median, low, high, conditions)
