"""Pure mathematics of groups that vanish: proximal steps and the gauge."""

from __future__ import annotations

import torch
from torch import Tensor

_SMALLEST = 1e-30
# A velocity goes with its parameter; Adam's moments are of gradients, which go with its inverse.
_VELOCITIES = ("momentum_buffer",)
_FIRST_MOMENTS = ("exp_avg",)
_SECOND_MOMENTS = ("exp_avg_sq", "max_exp_avg_sq")


def shrink_factors(strengths: Tensor, amounts: Tensor, power: int) -> Tensor:
    """Give max(0, 1 - amount / strength^power), by which a penalty's step multiplies each group.

    Power 1 is the proximal step of the group lasso sum of strengths: all groups lose the same
    strength, the strong ones too. Power 2 is a step of sum of log(strengths), the reweighted lasso:
    all groups lose the same energy, half the amount each, so that the strong ones hardly notice.
    Power 0 is decay: each loses its own amount as a share.

    Args:
        strengths: Norm of each group, any shape.
        amounts: Learning rate times multiplier times group weight, broadcastable to ``strengths``.
        power: 0, 1 or 2.

    Source:
        Yuan and Lin, J. R. Statist. Soc. B 68, 2006, eq. 2.4; Candes, Wakin, Boyd, J. Fourier Anal.
        Appl. 14, 2008, Sec. 2.3.
    """
    return (1 - amounts / strengths.pow(power).clamp_min(_SMALLEST)).clamp_min(0)


def left_after(strengths: Tensor, amounts: Tensor, power: int) -> Tensor:
    """Say which groups outlast steps of ``amounts`` altogether if nothing resists; a mask."""
    return strengths.pow(power) > power * amounts


def rescale(
    parameter: torch.nn.Parameter, factors: Tensor, optimizer: torch.optim.Optimizer | None
) -> None:
    """Multiply a parameter in place, and its momenta such that the motion goes on as it was.

    Of the two readings of SGD's buffer (sum of gradients, velocity) the velocity is the one that
    survives a column that shrinks at once: as a sum of gradients it would throw the other factor.

    Args:
        parameter: Changed in place.
        factors: Positive, broadcastable to it.
        optimizer: Whose state is changed; None: there is none.
    """
    parameter.data.mul_(factors)
    state = optimizer.state.get(parameter, {}) if optimizer is not None else {}
    for key in _VELOCITIES:
        if state.get(key) is not None:
            state[key].mul_(factors)
    for key in _FIRST_MOMENTS:
        if state.get(key) is not None:
            state[key].div_(factors)
    for key in _SECOND_MOMENTS:
        if state.get(key) is not None:
            state[key].div_(factors.square())
