"""EDP: one training learns ranks and channels, then pruning and merging make them real.

Ruan, Liu, Yuan, Li, Hu, Li, Maybank, IEEE TNNLS 32, 2021, doi 10.1109/TNNLS.2020.3018177; a
reconstruction guided by the authors' later code (DPFPS).
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lissom.errors import BudgetError, LissomError, RecipeError
from lissom.extension import COUNTS, ModelView, Proposal
from lissom.methods.pair_clock import PairClock
from lissom.methods.units import check_ignored
from lissom.plan.alignment import aligned_counts
from lissom.plan.budget import Budget
from lissom.plan.build import apply_values, build
from lissom.plan.cost import Cost
from lissom.relaxation.candidates import relaxed_layers
from lissom.relaxation.decay import DecaySteering
from lissom.relaxation.merging import Hardened
from lissom.relaxation.published import PublishedSchedule
from lissom.relaxation.rank_and_channels import RankAndChannels
from lissom.relaxation.settings import RelaxationSettings
from lissom.relaxation.steering import BudgetSteering, Ramp
from lissom.relaxation.support import COLUMNS, ROWS, as_support
from lissom.sensitivity.statistics import input_covariances

MODES = ("budget", "faithful")
MERGES = ("cost", "time", "never")


@dataclass(frozen=True, slots=True)
class EdpSettings:
    """Free choices of the method.

    Attributes:
        mode: ``budget`` steers to the budget and meets it exactly; ``faithful`` is the published
            form: fixed multipliers, plain start, rows of A, a threshold at the end.
        learn: ``columns`` (ranks), ``rows`` (channels), or both.
        start: ``trained``, or ``scratch`` for a network without trained weights.
        split: ``channel`` (k x k and 1 x 1), as published; ``spatial`` (kernels of more than one
            row and column become k x 1 and 1 x k), from trained weights in ``budget`` alone; or
            ``auto``: spatial where that can be and ``penalty`` is ``decay``.
        row_groups: ``inner``, or ``all`` for channels that residual sums couple, too.
        penalty: ``decay`` (what is about to go fades, the rest is left alone), ``energy``
            (reweighted lasso) or ``norm`` (group lasso), which ``faithful`` always has.
        merge: Pairs become one layer where that costs no more (``cost``), where it is faster as
            measured (``time``), or ``never``.
        rate_factor: Peak learning rate, as a multiple of recovery's, which is meant for networks
            that are already what they will be. High rates forget what trained weights have
            memorised; set 1 where ``recover.learning_rate`` is high already.
        statistics_images: Calibration images for the input covariances.
        ramp_start: Of ``budget``, as the four below: share of the training after which the target
            cost begins to fall.
        ramp_end: Where it has reached the budget; -1: 0.1, with the spatial split 0.
        cut_at: Where the support is cut to the budget and frozen; -1: there, too. With the spatial
            split that is the start, and all of the training is recovery.
        lead: Of ``decay``: share of the training for which something fades before it goes.
        steer_every: Steps between two looks at the cost.
        lam_rank: Multiplier of the columns in ``faithful``.
        lam_channel: Multiplier of the rows in ``faithful``.
    """

    mode: str = "budget"
    learn: tuple[str, ...] = (COLUMNS, ROWS)
    start: str = "trained"
    split: str = "auto"
    row_groups: str = "inner"
    penalty: str = "decay"
    merge: str = "cost"
    rate_factor: float = 5.0
    statistics_images: int = 2048
    ramp_start: float = 0.0
    ramp_end: float = -1.0
    cut_at: float = -1.0
    lead: float = 0.05
    steer_every: int = 50
    lam_rank: float = 0.01
    lam_channel: float = 0.01

    def __post_init__(self) -> None:
        for name, known in (("mode", MODES), ("merge", MERGES)):
            if getattr(self, name) not in known:
                raise RecipeError(
                    f"{name}={getattr(self, name)!r}: expected one of {', '.join(known)}"
                )
        if self.statistics_images < 1:
            raise RecipeError(f"statistics_images={self.statistics_images}: expected at least 1")
        for name in ("lam_rank", "lam_channel"):
            if not getattr(self, name) >= 0:
                raise RecipeError(f"{name}={getattr(self, name)}: expected 0 or more")
        for name in ("rate_factor", "lead"):
            if not getattr(self, name) > 0:
                raise RecipeError(f"{name}={getattr(self, name)}: expected more than 0")
        self._check_penalty(self.ramp())
        self.relaxation()

    def _check_penalty(self, ramp: Ramp) -> None:
        if self.mode == "budget" and self.penalty != "decay" and ramp.cut == 0:
            raise RecipeError(
                f"penalty={self.penalty!r}: has no effect where the support is cut at the start; "
                "set ramp_end and cut_at (0.55 and 0.6), or penalty=decay"
            )

    def ramp(self) -> Ramp:
        """Give the times of the ramp."""
        usual = 0.0 if self._split == "spatial" else 0.1
        end = usual if self.ramp_end == -1 else self.ramp_end
        cut = max(usual, end) if self.cut_at == -1 else self.cut_at
        return Ramp(self.ramp_start, end, cut, self.steer_every)

    @property
    def _split(self) -> str:
        if self.split != "auto":
            return self.split
        # The other penalties need a ramp, which the spatial split does without.
        trained = self.mode == "budget" and self.start == "trained"
        spatial = trained and self.penalty == "decay"
        return "spatial" if spatial else "channel"

    def relaxation(self) -> RelaxationSettings:
        """Give what may vanish and how it is measured."""
        published = self.mode == "faithful"
        return RelaxationSettings(
            learn=self.learn,
            start=self.start,
            split=self._split,
            form="plain" if published else "whitened",
            row_parts="filters" if published else "norms",
            row_groups=self.row_groups,
            penalty="norm" if published else self.penalty,
            merge="never" if self.merge == "never" else "cost",
        )


class Edp:
    """Relaxes, trains, hardens.

    Attributes:
        name: ``edp``.
        trains: True.
        limits: MACs and parameters.
    """

    name = "edp"
    trains = True
    limits = COUNTS

    def __init__(self, settings: EdpSettings | None = None) -> None:
        self.settings = settings or EdpSettings()

    def smallest(self, view: ModelView) -> Cost:
        """Give the cost with one column and one channel left everywhere."""
        relaxation = self._relaxation(view, {})
        relaxation.relax(copy.deepcopy(view.model))
        counts = {key: len(values) for key, values in relaxation.strengths().items()}
        masks = {
            key: torch.arange(count) < aligned_counts(count, _step(view))[0]
            for key, count in counts.items()
        }
        return relaxation.pricer.price(relaxation.configuration(as_support(masks)))

    def plan(self, view: ModelView, budget: Budget) -> Proposal:
        """Relax, train with the run's settings, harden.

        Raises:
            BudgetError: The budget is out of reach of what may vanish, or fixed multipliers did not
                reach it.
            LissomError: The view can't train (a preview).
        """
        if view.train is None or view.score is None:
            raise LissomError("edp decides by training, which a preview does not do")
        relaxation = self._relaxation(view, self._statistics(view))
        relaxed = relaxation.relax(copy.deepcopy(view.model))
        companion = self._companion(relaxation, view, budget)
        training = view.train(relaxed, companion, rate_factor=self.settings.rate_factor)
        before = view.score(relaxed.eval())
        clock = self._clock(relaxation, view, budget)
        hardened = relaxation.harden(relaxed, clock.pays if clock else None)
        predicted = relaxation.pricer.price(hardened.configuration)
        self._check_reached(predicted, view, budget)
        after = view.score(_built(view.model, hardened))
        measured: dict[str, Any] = {
            "accuracy_before_merge": before,
            "accuracy_after_merge": after,
            "round_to": _step(view),
            "pair_and_layer_ms": dict(clock.times) if clock else {},
        }
        evidence = _evidence(self.settings, relaxation, hardened, companion.trajectory)
        return Proposal(
            plan=hardened.plan,
            values=hardened.values,
            predicted=predicted,
            evidence={**measured, **evidence},
            training=training,
        )

    def _statistics(self, view: ModelView) -> dict[str, Tensor]:
        """Measure the input covariances of the layers to be relaxed."""
        settings = self.settings
        if settings.mode == "faithful" or COLUMNS not in settings.learn:
            return {}
        if settings.start == "scratch":
            return {}
        layers = relaxed_layers(view.graph, view.ignore)
        images = settings.statistics_images
        return input_covariances(view.model, layers, view.data.calibration, view.task, images)

    def _relaxation(self, view: ModelView, covariances: dict[str, Tensor]) -> RankAndChannels:
        check_ignored(view.graph, view.ignore)
        return RankAndChannels(
            view.model,
            view.graph,
            view.example_inputs,
            self.settings.relaxation(),
            covariances=covariances,
            ignore=view.ignore,
        )

    def _companion(
        self, relaxation: RankAndChannels, view: ModelView, budget: Budget
    ) -> BudgetSteering | PublishedSchedule:
        settings = self.settings
        if settings.mode == "faithful":
            return PublishedSchedule(
                relaxation, settings.lam_rank, settings.lam_channel, settings.steer_every
            )
        limits = budget.limits(view.graph.cost)
        ramp, step = settings.ramp(), _step(view)
        if relaxation.decays:
            return DecaySteering(relaxation, limits, ramp, lead=settings.lead, round_to=step)
        return BudgetSteering(relaxation, limits, ramp, round_to=step)

    def _check_reached(self, cost: Cost, view: ModelView, budget: Budget) -> None:
        """Say what to do where the published form, which aims at no budget, is above it."""
        if self.settings.mode == "faithful" and not budget.met(view.graph.cost, cost):
            raise BudgetError(
                f"mode=faithful with lam_rank={self.settings.lam_rank} and "
                f"lam_channel={self.settings.lam_channel} came to {cost.macs:,} MACs and "
                f"{cost.params:,} parameters, above the budget {budget}; raise the multipliers, "
                "train longer, or use mode=budget"
            )

    def _clock(
        self, relaxation: RankAndChannels, view: ModelView, budget: Budget
    ) -> PairClock | None:
        if self.settings.merge != "time":
            return None
        return PairClock(relaxation, view.model, budget.limits(view.graph.cost))


def _step(view: ModelView) -> int | str:
    """Give the alignment of ranks and channels at the cut.

    ``auto`` is 1 here: a budget in MACs asks for MACs, and learned ranks lose what rounding takes.
    """
    return 1 if view.round_to == "auto" else view.round_to


def _built(model: nn.Module, hardened: Hardened) -> nn.Module:
    network = build(model, hardened.plan)
    apply_values(network, hardened.values)
    return network.eval()


def _evidence(
    settings: EdpSettings,
    relaxation: RankAndChannels,
    hardened: Hardened,
    trajectory: list[dict[str, float]],
) -> dict[str, Any]:
    return {
        "mode": settings.mode,
        "trajectory": trajectory,
        "layers": [asdict(pair) for pair in hardened.pairs],
        "merged": [pair.layer for pair in hardened.pairs if pair.merged],
        "removed": [name for name, count in hardened.removed.items() if count],
        "channels_removed": dict(hardened.removed),
        "inexact_borders": list(hardened.inexact),
        "left_alone": dict(relaxation.refused),
        "left_whole": dict(relaxation.whole),
    }
