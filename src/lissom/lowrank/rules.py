"""Rules that choose all ranks of a layer from its weight; those that need none are ``Family``'s.

Equal relative ranks: ``Family.relative``. Target cost: ``Family.within``. Both Tucker ranks
together: ``Family.best_within``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lissom.lowrank.alternating import whitened
from lissom.lowrank.evbmf import evbmf_rank
from lissom.lowrank.factorize import double
from lissom.lowrank.family import Family, Ranks
from lissom.lowrank.metric import metric_for
from lissom.lowrank.rank import energy_rank
from lissom.plan.predict import LayerShape


def energy_ranks(
    family: Family,
    shape: LayerShape,
    weight: Tensor,
    fraction: float,
    *,
    covariance: Tensor | None = None,
) -> Ranks:
    """Give, per rank, the smallest at which its unfolding holds a fraction of the energy.

    Args:
        family: The family.
        shape: The layer.
        weight: Its weight.
        fraction: In (0, 1]. Several ranks lose up to 1 - fraction each.
        covariance: E[x x^T] of the layer's inputs, for the energy of the output (under the nearest
            Kronecker product to it); None for that of the weight.

    Raises:
        ValueError: The fraction is out of range, the family's rank is no matrix rank, or the
            covariance does not belong to the weight.
    """
    found = spectra(family, weight, covariance)
    return family.settle(shape, tuple(energy_rank(energies, fraction) for energies in found))


def spectra(family: Family, weight: Tensor, covariance: Tensor | None = None) -> tuple[Tensor, ...]:
    """Give, per rank, the energies of the directions of its unfolding, in double precision.

    Args:
        family: The family.
        weight: The layer's weight.
        covariance: As for ``energy_ranks``.

    Raises:
        ValueError: The family's rank is no matrix rank, or the covariance does not belong to the
            weight.
    """
    dense = double(weight)
    if covariance is not None:
        flat = dense.reshape(*dense.shape[:2], -1)
        dense = whitened(flat, metric_for(flat, covariance)).reshape(dense.shape)
    return tuple(torch.linalg.svdvals(matrix).square() for matrix in family.unfoldings(dense))


def evbmf_ranks(family: Family, shape: LayerShape, weight: Tensor) -> Ranks:
    """Give, per rank, how many directions of its unfolding stand out of the noise; at least 1.

    Args:
        family: The family.
        shape: The layer.
        weight: Its weight.

    Raises:
        ValueError: The family's rank is no matrix rank, or a value is not finite.

    Source:
        Kim et al., ICLR 2016, arXiv:1511.06530, Sec. 3.2 (for Tucker-2).
    """
    found = (evbmf_rank(matrix) for matrix in family.unfoldings(weight))
    return family.settle(shape, tuple(max(1, rank) for rank in found))
