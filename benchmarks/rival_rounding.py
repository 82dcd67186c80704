"""Torch-Pruning's channels by magnitude over all layers, with and without rounding; for timing."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch_pruning as tp
from rival_pruning import RANKINGS, cost_of
from torch import Tensor, nn

from lissom.errors import BudgetError
from lissom.relaxation.support import within

_STEPS = 400


def pruned(
    model: nn.Module, inputs: tuple[Tensor, ...], limits: Mapping[str, int], round_to: int | None
) -> nn.Module:
    """Prune by one global ranking in small steps, all layers but the last, until the limits hold.

    Args:
        model: Left as it is.
        inputs: Of batch 1.
        limits: The most ``macs`` and ``params`` that may be left, by our counter.
        round_to: What channel counts are multiples of; None: of nothing.

    Raises:
        BudgetError: The limits are out of reach.
    """
    network = copy.deepcopy(model).eval()
    layers = [one for one in network.modules() if isinstance(one, (nn.Conv2d, nn.Linear))]
    pruner = tp.pruner.BasePruner(
        network,
        inputs,
        RANKINGS["magnitude"](),
        global_pruning=True,
        pruning_ratio=1.0,
        iterative_steps=_STEPS,
        ignored_layers=layers[-1:],
        round_to=round_to,
    )
    for _ in range(_STEPS):
        if within(cost_of(network, inputs), limits):
            return network
        pruner.step()
        with torch.no_grad():
            network(*inputs)  # a network that no longer runs is no result
    raise BudgetError(f"Torch-Pruning can't reach {dict(limits)}")
