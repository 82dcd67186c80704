"""Which channels of a unit stay, by any criterion, whatever the network looks like around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from lissom.extension import ModelView
from lissom.graph.layers import ChannelGroup
from lissom.methods.units import Unit
from lissom.pruning.cut import Criterion, admissible_counts, choose_kept, group_importance
from lissom.sensitivity.statistics import loss_gradients

_LEAST_KEPT = 0.1  # of the channels of a group: less than that is another network


def importances(
    units: Sequence[Unit],
    view: ModelView,
    criterion: str,
    covariances: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Score the channels of every unit that can be pruned.

    Args:
        units: The units.
        view: Network and data; ``taylor`` runs it backwards over the calibration data.
        criterion: One of ``lissom.pruning.cut.Criterion``.
        covariances: Per layer E[x x^T] of its inputs, for ``reconstruction``.

    Returns:
        Per unit the scores, shape (channels,), higher = keep.
    """
    gradients = None
    if criterion == Criterion.TAYLOR:
        gradients = loss_gradients(view.model, view.data.calibration, view.task, images=1024)
    return {
        unit.name: group_importance(
            view.model, unit.group, criterion, gradients, covariances=covariances
        )
        for unit in units
        if unit.group is not None
    }


def kept_at(group: ChannelGroup, scores: Tensor, count: int) -> tuple[int, ...]:
    """Give the ``count`` channels that stay."""
    return tuple(choose_kept(scores, count, group))


def cuts_of(
    units: Sequence[Unit], scores: Mapping[str, Tensor], round_to: int | str
) -> dict[str, tuple[tuple[int, ...], ...]]:
    """List, per unit, the aligned sets of kept channels on offer, mild ones first."""
    cuts = {}
    for unit in units:
        group = unit.group
        if group is None:
            continue
        floor = max(1, round(_LEAST_KEPT * group.channels))
        counts = [n for n in admissible_counts(group, round_to) if floor <= n < group.channels]
        cuts[unit.name] = tuple(
            kept_at(group, scores[unit.name], n) for n in sorted(counts, reverse=True)
        )
    return cuts
