"""The steps of a layer's weights: those of a grid that they lie on, or else of the largest."""

from __future__ import annotations

import numpy as np

from lissom.export.graph import Array

WEIGHT_LEVELS = 127
_SAMPLED = 64  # weights per channel that must lie on a grid before all of them are looked at
_ON_GRID = 1e-3  # of a step: what folding a batch norm moves is a thousandth of that


def weight_steps(weight: Array, levels: int = WEIGHT_LEVELS) -> Array:
    """Choose the distance of neighbouring values for each output channel.

    The largest weight gets the last level, unless the channel lies on a coarser grid already, as
    after quantization to fewer bits: then that grid, so that nothing is lost.

    Args:
        weight: (C, ...).
        levels: The largest integer.

    Returns:
        (C,) float32; 1 for a channel of zeros.
    """
    rows = np.abs(weight.reshape(len(weight), -1).astype(np.float64))
    peaks = rows.max(axis=1)
    steps = np.where(peaks > 0, peaks / levels, 1.0)
    sample = rows[:, :: max(1, rows.shape[1] // _SAMPLED)]
    for count in range(1, levels):
        candidates = np.where(peaks > 0, peaks / count, 1.0)
        likely = np.flatnonzero((steps < candidates) & (peaks > 0) & _fits(sample, candidates))
        found = likely[_fits(rows[likely], candidates[likely])]
        steps[found] = candidates[found]  # the first count that fits is the grid
    return steps.astype(np.float32)


def on_levels(weight: Array, levels: int = WEIGHT_LEVELS) -> bool:
    """Tell whether each output channel is a step times integers of at most ``levels``.

    Args:
        weight: (C, ...).
        levels: The largest integer.
    """
    rows = np.abs(weight.reshape(len(weight), -1).astype(np.float64))
    return bool(_fits(rows, weight_steps(weight, levels).astype(np.float64)).all())


def _fits(rows: Array, steps: Array) -> Array:
    places = rows / steps[:, None]
    return np.asarray((np.abs(places - np.rint(places)) <= _ON_GRID).all(axis=1))
