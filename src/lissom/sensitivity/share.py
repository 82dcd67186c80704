"""Work that several processes share out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from lissom.train.processes import Processes

T = TypeVar("T")


def gathered(processes: Processes, make: Callable[[], T]) -> list[T]:
    """Let every process make its part, and give all parts to all; an error is raised by all.

    Args:
        processes: All of them must come here.
        make: Gives this process's part; the others receive a pickled copy.

    Returns:
        The parts, by rank.
    """
    if processes.world == 1:
        return [make()]
    outcome: tuple[Any, Exception | None]
    try:
        outcome = make(), None
    except Exception as error:  # whatever it is, the others wait for news
        outcome = None, error
    outcomes: list[Any] = [None] * processes.world
    dist.all_gather_object(outcomes, outcome)
    for _, failure in outcomes:
        if failure is not None:
            raise failure
    return [made for made, _ in outcomes]
