"""One training of a benchmark: what, for how long, with which settings."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One training.

    Attributes:
        group: For ``--rows``.
        network: ``lissom:`` name without the prefix.
        variant: What distinguishes the row within group, network and epochs.
        epochs: Of the one training.
        budget: As on the command line.
        settings: PLACE=VALUE, as behind ``--set``.
        length: ``usual``, or ``long`` for what needs a GPU.
    """

    group: str
    network: str
    variant: str
    epochs: int
    budget: str
    settings: tuple[str, ...] = ()
    length: str = "usual"

    @property
    def weights(self) -> str:
        """Give ``trained``, or ``none`` for a training from scratch."""
        return "none" if self.group == "scratch" else "trained"

    def name(self, seed: int) -> str:
        """Give the name of the run's folder; other settings have another one."""
        digest = hashlib.sha256(repr(self.settings).encode()).hexdigest()[:6]
        budget = re.sub(r"[^a-zA-Z0-9.]+", "", self.budget)
        what = f"{self.network}-{self.group}-{self.variant}-{budget}"
        return f"{what}-e{self.epochs}s{seed}-{digest}"

    def key(self, seed: int) -> list[str | int]:
        """Give what must be equal for a row to count as done."""
        names = (self.group, self.network, self.variant, self.budget)
        return [*names, self.epochs, seed, *self.settings]
