"""The range of each activation over calibration data, for eight bits: three estimators.

What is observed is kept as a histogram of a fixed number of bins per tensor, however much data
there is. Where the values come from (a runtime, hooks, a training that learns the ranges) is
nobody's business here: the result is a ``Range`` per tensor name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lissom.errors import DataError

_BINS = 2048
_SHRINKS = np.linspace(1.0, 0.1, 91)


@dataclass(frozen=True, slots=True)
class Range:
    """The values that a tensor may take after rounding; 0 is always one of them.

    Attributes:
        low: At most 0.
        high: At least 0.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError(f"range {self.low} .. {self.high}: expected finite ends")
        if not self.low <= 0 <= self.high:
            raise ValueError(f"range {self.low} .. {self.high}: expected to hold 0")


@dataclass(frozen=True, slots=True)
class Affine:
    """How a real number is written as an unsigned integer: real = scale (q - zero_point).

    Attributes:
        scale: Distance of neighbouring values; a float32.
        zero_point: The integer that stands for 0.
    """

    scale: float
    zero_point: int


def affine(span: Range, bits: int = 8) -> Affine:
    """Spread the integers 0 .. 2^bits - 1 over a range; 0 stays exactly 0.

    Where the range has no negative part the zero point is 0, which lets a runtime drop the ReLU.

    Source:
        Jacob et al., CVPR 2018, arXiv:1712.05877, Sec. 2.1.
    """
    largest = 2**bits - 1
    scale = float(np.float32((span.high - span.low) / largest))
    if scale < np.finfo(np.float32).tiny:  # all values are 0
        return Affine(1.0, 0)
    return Affine(scale, round(min(largest, -span.low / scale)))


class Histogram:
    """How often values occur; bins widen by whole doublings when values lie outside."""

    def __init__(self) -> None:
        self.counts = np.zeros(_BINS)
        self.start = self.width = 0.0
        self.smallest, self.largest = math.inf, -math.inf

    def observe(self, values: Tensor) -> None:
        """Count the entries of a float tensor of any shape.

        Raises:
            DataError: A value is NaN or infinite.
        """
        if not values.numel():
            return
        low, high = (float(end) for end in torch.aminmax(values))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise DataError(
                "calibration: a tensor holds NaN or infinite values; check the network on these "
                "images"
            )
        self.smallest, self.largest = min(self.smallest, low), max(self.largest, high)
        if self.width == 0.0:
            self.start = low
            # A constant tensor has no width of its own; the margin keeps the largest value inside.
            self.width = max(high - low, abs(high), 1e-12) * (1 + 1e-6) / _BINS
        while low < self.start or high >= self._end:
            self._widen(downwards=low < self.start)
        counts = torch.histc(values.flatten().float(), _BINS, self.start, self._end)
        self.counts += counts.double().numpy()

    @property
    def _end(self) -> float:
        return self.start + self.width * _BINS

    def _widen(self, *, downwards: bool) -> None:
        pairs = self.counts.reshape(-1, 2).sum(axis=1)
        empty = np.zeros(_BINS // 2)
        if downwards:
            self.start -= self.width * _BINS
        self.counts = np.concatenate((empty, pairs) if downwards else (pairs, empty))
        self.width *= 2

    @property
    def centres(self) -> NDArray[np.floating]:
        """Give the middle of each bin."""
        return self.start + self.width * (np.arange(_BINS) + 0.5)

    def extremes(self) -> Range:
        """Give the smallest and the largest value seen, widened to hold 0."""
        return Range(min(self.smallest, 0.0), max(self.largest, 0.0))


def min_max(histogram: Histogram) -> Range:
    """Clip nothing."""
    return histogram.extremes()


def percentile(histogram: Histogram, beyond: float = 1e-4) -> Range:
    """Clip the share ``beyond`` of the values at either end."""
    cumulated = np.cumsum(histogram.counts) / histogram.counts.sum()
    first = int(np.searchsorted(cumulated, beyond, side="right"))
    last = int(np.searchsorted(cumulated, 1 - beyond, side="left"))
    whole = histogram.extremes()
    low = max(histogram.start + histogram.width * first, whole.low)
    high = min(histogram.start + histogram.width * (last + 1), whole.high)
    return Range(min(low, 0.0), max(high, 0.0))


def mse(histogram: Histogram, bits: int = 8) -> Range:
    """Clip where the squared error of rounding and clipping together is smallest.

    Both ends are drawn in together, then each alone.

    Source:
        Nagel et al., A White Paper on Neural Network Quantization, arXiv:2106.08295, Sec. 3.1.
    """
    whole = histogram.extremes()
    best = _closest(
        histogram, (Range(whole.low * share, whole.high * share) for share in _SHRINKS), bits
    )
    best = _closest(
        histogram, (best, *(Range(best.low, whole.high * share) for share in _SHRINKS)), bits
    )
    return _closest(
        histogram, (best, *(Range(whole.low * share, best.high) for share in _SHRINKS)), bits
    )


def _closest(histogram: Histogram, candidates: Iterable[Range], bits: int) -> Range:
    return min(candidates, key=lambda span: _squared_error(histogram, span, bits))


def _squared_error(histogram: Histogram, span: Range, bits: int) -> float:
    how, values = affine(span, bits), histogram.centres
    levels = np.clip(np.rint(values / how.scale) + how.zero_point, 0, 2**bits - 1)
    gaps = (levels - how.zero_point) * how.scale - values
    return float((histogram.counts * gaps**2).sum())


ESTIMATORS: Mapping[str, Callable[[Histogram], Range]] = MappingProxyType(
    {"min_max": min_max, "percentile": percentile, "mse": mse}
)


def observe_histograms(observations: Iterable[Mapping[str, Tensor]]) -> dict[str, Histogram]:
    """Count the values of every tensor that is observed.

    Args:
        observations: Values by tensor name, one mapping a batch; the batches may differ in size.

    Raises:
        DataError: There are no observations, or one is NaN or infinite (names the tensor).
    """
    histograms: dict[str, Histogram] = {}
    for batch in observations:
        for name, values in batch.items():
            try:
                histograms.setdefault(name, Histogram()).observe(values)
            except DataError as error:
                raise DataError(f"{name}: {error}") from None
    if not histograms:
        raise DataError("calibration: no images; expected at least one batch")
    return histograms


def collect_ranges(
    observations: Iterable[Mapping[str, Tensor]], estimator: str = "mse"
) -> dict[str, Range]:
    """Estimate the range of every tensor that is observed.

    Args:
        observations: As for ``observe_histograms``.
        estimator: One of ``ESTIMATORS``.

    Raises:
        DataError: There are no observations, or one is NaN or infinite (names the tensor).
        ValueError: There is no such estimator.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator {estimator!r}: expected one of {', '.join(ESTIMATORS)}")
    found = observe_histograms(observations)
    return {name: ESTIMATORS[estimator](histogram) for name, histogram in found.items()}
