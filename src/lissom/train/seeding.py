"""Random numbers as a function of a key, the caller's own left alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_all(*key: int) -> None:
    """Seed python, numpy and torch from ``key``; neighbouring keys give unrelated numbers."""
    state = np.random.SeedSequence(key).generate_state(3)
    random.seed(int(state[0]))
    np.random.seed(int(state[1]))
    torch.manual_seed(int(state[2]))


def start_epoch(loader: object, epoch: int) -> None:
    """Tell a loader, or its sampler, which epoch comes, if it wants to know."""
    for listener in (loader, getattr(loader, "sampler", None)):
        if hasattr(listener, "set_epoch"):
            listener.set_epoch(epoch)


@contextmanager
def own_randomness() -> Iterator[None]:
    """Restore all generators to what they were before the block."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
