"""Harms without a forward pass for each candidate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from lissom.sensitivity.candidate import Candidate, Estimator, Harms, standard_error
from lissom.sensitivity.curvature import Curvature

_NOTHING = Harms((), (), 0, 0, 0.0)


@dataclass(frozen=True, slots=True)
class SecondOrder:
    """Reads harms off the curvature of each layer: 1/2 tr(U D V D^T) / tr(V).

    Layers that change together are taken as independent.

    Attributes:
        model: The original network.
        curvatures: Per layer; from ``lissom.sensitivity.curvature.curvatures``.
        images: Samples behind them.
        measured: For candidates that change anything else (grouped convolutions, tied weights), or
            that dense weights can't imitate.
    """

    model: nn.Module
    curvatures: Mapping[str, Curvature]
    images: int
    measured: Estimator

    def harms(self, candidates: Sequence[Candidate]) -> Harms:
        """Give means and their standard errors over parts of the images."""
        return _told(candidates, self._harm, self.images, self.measured)

    def _harm(self, candidate: Candidate) -> tuple[float, float] | None:
        names = {name: name.removesuffix(".weight") for name in candidate.overrides}
        unlike = candidate.rebuild is not None or not names
        if unlike or not self.curvatures.keys() >= set(names.values()):
            return None
        changes = _changes(self.model, candidate)
        parts = [self.curvatures[names[name]].harms(change) for name, change in changes.items()]
        values = sum(parts[1:], start=parts[0]).clamp_min(0.0).tolist()
        return sum(values) / len(values), standard_error(values)


@dataclass(frozen=True, slots=True)
class FirstOrder:
    """Reads harms off the mean gradient of the loss: |<dL/dW, D>|; an ablation.

    Of a network that has converged the mean gradient is about zero, and what is left of it is
    noise.

    Attributes:
        model: The original network.
        gradients: Of the mean loss, by state-dict name.
        images: Samples behind them.
        measured: For candidates that change what has no gradient, or that dense weights can't
            imitate.

    Source:
        Li et al., "Towards Compact CNNs via Collaborative Compression", CVPR 2021,
        arXiv:2105.11228: the loss by its first-order expansion.
    """

    model: nn.Module
    gradients: Mapping[str, Tensor]
    images: int
    measured: Estimator

    def harms(self, candidates: Sequence[Candidate]) -> Harms:
        """Give the harms; nothing is known of their errors."""
        return _told(candidates, self._harm, self.images, self.measured)

    def _harm(self, candidate: Candidate) -> tuple[float, float] | None:
        if candidate.rebuild is not None or not self.gradients.keys() >= candidate.overrides.keys():
            return None
        changes = _changes(self.model, candidate)
        total = sum(float((self.gradients[n] * change).sum()) for n, change in changes.items())
        return abs(total), 0.0


def _changes(model: nn.Module, candidate: Candidate) -> dict[str, Tensor]:
    return {
        name: new.detach() - model.get_parameter(name).detach()
        for name, new in candidate.overrides.items()
    }


def _told(
    candidates: Sequence[Candidate],
    harm: Callable[[Candidate], tuple[float, float] | None],
    images: int,
    measured: Estimator,
) -> Harms:
    """Give what is told of the candidates, and what is measured of the others."""
    told = [harm(candidate) for candidate in candidates]
    rest = [one for one, known in zip(candidates, told, strict=True) if known is None]
    run = measured.harms(rest) if rest else _NOTHING
    others = iter(zip(run.mean, run.error, strict=True))
    both = [next(others) if known is None else known for known in told]
    means, errors = tuple(mean for mean, _ in both), tuple(error for _, error in both)
    return Harms(means, errors, images, run.forwards, run.forwards_run)
