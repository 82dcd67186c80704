"""Measured harm of whole networks, one after another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lissom.graph.whole_run import WholeRun
from lissom.sensitivity.cache import HarmCache
from lissom.sensitivity.candidate import Candidate
from lissom.sensitivity.measure import Measured, finite_distance


@dataclass(frozen=True)
class WholeNetworks:
    """Measures networks against the same original on the same images.

    The original is run once for all of them, where ``Measured`` runs it for each call.

    Attributes:
        measured: The original, the batches, the task and the cache.
    """

    measured: Measured

    def harm(self, name: str, build: Callable[[], nn.Module]) -> float:
        """Give the mean distance between a network's outputs and the original's.

        Args:
            name: What determines the network, for the cache.
            build: Gives it, in eval mode; not called for a network that is in the cache.

        Raises:
            ModelError: A distance is not finite.
        """
        chosen, store = self._opened
        whole = Candidate("the network", "all", 0.0, {}, build, name)
        if len(store.harms.get(whole.key, ())) < len(chosen):
            store.harms[whole.key] = self._distances(whole, build())
            store.save()
        harms = store.harms[whole.key][: len(chosen)]
        return max(sum(harms) / len(harms), 0.0)

    def _distances(self, whole: Candidate, network: nn.Module) -> list[float]:
        chosen, _ = self._opened
        with torch.no_grad():
            return [
                finite_distance(self.measured.task, network(*inputs), reference, whole)
                for inputs, reference in zip(chosen, self._references, strict=True)
            ]

    @cached_property
    def _opened(self) -> tuple[list[tuple[Tensor, ...]], HarmCache]:
        return self.measured.opened()

    @cached_property
    def _references(self) -> list[Any]:
        chosen, _ = self._opened
        original = WholeRun(self.measured.model, chosen[0])
        return [original.record(inputs) for inputs in chosen]
