"""Which channel counts and ranks hardware likes: multiples of a step."""

from __future__ import annotations

_SMALL, _SMALL_STEP, _LARGE_STEP = 64, 8, 16


def step_for(full: int, round_to: int | str) -> int:
    """Give the step that counts below ``full`` are multiples of.

    ``auto`` is 8 up to 64 channels and 16 above: on processors with 512-bit vectors the time of a
    convolution is a staircase of 16 channels.

    Args:
        full: Channels of the layer, or its full rank.
        round_to: ``auto``, or the step itself; 1 leaves counts free.

    Raises:
        ValueError: It is neither ``auto`` nor a positive integer.
    """
    if round_to == "auto":
        return _SMALL_STEP if full <= _SMALL else _LARGE_STEP
    if isinstance(round_to, (str, bool)) or round_to < 1:
        raise ValueError(f"round_to={round_to!r}; expected 'auto' or an integer of at least 1")
    return round_to


def aligned_counts(full: int, round_to: int | str) -> tuple[int, ...]:
    """List the counts that are multiples of the step, and ``full`` itself, in ascending order.

    Args:
        full: Channels of the layer, or its full rank.
        round_to: As for ``step_for``.

    Raises:
        ValueError: As ``step_for``.
    """
    step = step_for(full, round_to)
    return (*range(step, full, step), full)
