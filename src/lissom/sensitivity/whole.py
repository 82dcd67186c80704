"""Measured harm of whole networks, one after another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lissom.graph.whole_run import WholeRun
from lissom.sensitivity.cache import HarmCache
from lissom.sensitivity.candidate import Candidate
from lissom.sensitivity.measure import Measured, finite_distance
from lissom.task import on_copies

_MOST_KEPT = 2**28  # bytes: of dense outputs on all images there may be gigabytes


@dataclass(frozen=True)
class WholeNetworks:
    """Measures networks against the same original on the same images.

    The original is run once for all of them, where ``Measured`` runs it for each call, as far as
    its outputs are small enough to be kept.

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
        task = self.measured.task
        with torch.no_grad():
            return [
                finite_distance(task, on_copies(network, inputs), self._reference(place), whole)
                for place, inputs in enumerate(chosen)
            ]

    def _reference(self, place: int) -> Any:
        """Give the original's outputs on one piece."""
        kept = self._kept
        if place in kept:
            return kept[place]
        chosen, _ = self._opened
        outputs = self._original.record(chosen[place])
        if sum(map(_bytes, (*kept.values(), outputs))) <= _MOST_KEPT:
            kept[place] = outputs
        return outputs

    @cached_property
    def _opened(self) -> tuple[list[tuple[Tensor, ...]], HarmCache]:
        return self.measured.opened()

    @cached_property
    def _original(self) -> WholeRun:
        chosen, _ = self._opened
        return WholeRun(self.measured.model, chosen[0])

    @cached_property
    def _kept(self) -> dict[int, Any]:
        return {}


def _bytes(outputs: Any) -> int:
    leaves = (one for one in pytree.tree_leaves(outputs) if isinstance(one, Tensor))
    return sum(one.nbytes for one in leaves)
