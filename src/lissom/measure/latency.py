"""Latency of networks beside each other: interleaved, warmed up, median and quartiles."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any, TypeVar

from torch import Tensor

from lissom.clock import TimeRatio
from lissom.measure.onnx_runtime import OnnxRuntime
from lissom.measure.runtime import Runnable
from lissom.measure.runtimes import RUNTIMES, runtime_called

K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Conditions:
    """Under what a latency is measured.

    Attributes:
        batch: Samples per call.
        threads: Threads of the runtime.
        runs: Timed calls per network.
        warmup: Calls per network before the first timed one.
        runtime: Name of what runs the network, as ``--runtime`` has it.
    """

    batch: int = 1
    threads: int = 1
    runs: int = 50
    warmup: int = 10
    runtime: str = "onnxruntime"

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("threads", 1), ("runs", 2), ("warmup", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.runtime not in RUNTIMES:
            raise ValueError(f"runtime={self.runtime!r}: expected {', '.join(RUNTIMES)}")


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
        """Give figures and conditions in one flat dict; the runtime with its version."""
        figures = {
            "median_ms": self.median_ms,
            "quartile_low_ms": self.quartile_low_ms,
            "quartile_high_ms": self.quartile_high_ms,
        }
        label = runtime_called(self.conditions.runtime).label
        return {**figures, **asdict(self.conditions), "runtime": label}


def compare_latency(
    calls: Mapping[str, Callable[[], object]], conditions: Conditions
) -> dict[str, Latency]:
    """Time several calls in turn (A B A B ...): a machine that slows down slows all of them.

    Args:
        calls: What to time, by name; each must do the same amount of work at every call.
        conditions: Runs and warm-up; the rest is passed on to the result as it is.
    """
    times = times_in_turn(calls, conditions)
    return {name: latency_of(values, conditions) for name, values in times.items()}


def times_in_turn(
    calls: Mapping[K, Callable[[], object]], conditions: Conditions
) -> dict[K, list[float]]:
    """Give the single times behind ``compare_latency``, in milliseconds.

    Args:
        calls: What to time, by name.
        conditions: Runs and warm-up.
    """
    for _ in range(conditions.warmup):
        for call in calls.values():
            call()
    times: dict[K, list[float]] = {name: [] for name in calls}
    for _ in range(conditions.runs):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - start) * 1e3)
    return times


def time_ratio(times: Sequence[float], reference: Sequence[float]) -> TimeRatio:
    """Compare runs taken in turn, pair by pair.

    The bounds of the median are order statistics (sign test), good for any distribution.

    Args:
        times: Of one network, at least one.
        reference: Of the other, as many.
    """
    ratios = sorted(one / other for one, other in zip(times, reference, strict=True))
    outer = max(int(len(ratios) / 2 - 0.98 * math.sqrt(len(ratios))), 0)  # 1.96 / 2
    return TimeRatio(median(ratios), ratios[outer], ratios[-1 - outer])


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
    runtime = OnnxRuntime()
    calls = {
        name: runtime.call(Runnable(file=path), inputs, conditions.threads)
        for name, path in files.items()
    }
    return compare_latency(calls, conditions)


def latency_of(times: Sequence[float], conditions: Conditions) -> Latency:
    """Sum up the times of one network.

    Args:
        times: In milliseconds, at least two.
        conditions: Under which they were taken.
    """
    low, middle, high = quantiles(times, n=4, method="inclusive")
    return Latency(middle, low, high, conditions)
