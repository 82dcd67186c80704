"""What it harms to drop a residual branch: measured like any other change."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import nn

from lissom.extension import ModelView
from lissom.graph.branches import Branch, residual_branches
from lissom.search.price import Configuration, Pricer
from lissom.sensitivity.candidate import Candidate, Estimator


def droppable(view: ModelView) -> tuple[Branch, ...]:
    """Find the branches of a network that may go: none with an ignored layer.

    Args:
        view: The network.
    """
    found = residual_branches(view.model, view.example_inputs)
    return tuple(branch for branch in found if not view.ignore.intersection(branch.layers))


def drop_harms(
    model: nn.Module, branches: Sequence[Branch], pricer: Pricer, estimator: Estimator
) -> dict[str, float]:
    """Judge every branch alone; harms of several do not quite add, which the search assumes.

    Args:
        model: The network.
        branches: To be judged.
        pricer: Tells what they cost.
        estimator: Tells the harms.

    Returns:
        Harm by the branch's name.
    """
    if not branches:
        return {}
    plain = pricer.price(Configuration()).macs
    candidates = [_candidate(model, branch, pricer, plain) for branch in branches]
    found = estimator.harms(candidates)
    return {branch.name: harm for branch, harm in zip(branches, found.mean, strict=True)}


def _candidate(model: nn.Module, branch: Branch, pricer: Pricer, plain: int) -> Candidate:
    """Give the network whose last layer of the branch says nothing."""
    last = branch.layers[-1]
    silent = {
        f"{last}.{name}": torch.zeros_like(parameter)
        for name, parameter in model.get_submodule(last).named_parameters()
    }
    removed = 1 - pricer.price(Configuration(dropped=(branch,))).macs / max(plain, 1)
    return Candidate(branch.name, "drop", removed, silent, recipe="drop")


def dropped_labels(branches: Collection[Branch]) -> dict[str, str]:
    """Give the label of the layers in branches that went."""
    return {layer: "drop" for branch in branches for layer in branch.layers}
