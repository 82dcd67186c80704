"""EDP: one training learns ranks and channels, then pruning and merging make them real.

Ruan, Liu, Yuan, Li, Hu, Li, Maybank, IEEE TNNLS 32, 2021, doi 10.1109/TNNLS.2020.3018177; a
reconstruction guided by the authors' later code (DPFPS).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from lissom.clock import Clock
from lissom.errors import BudgetError, LissomError, MeasureError, RecipeError
from lissom.extension import COUNTS, ModelView, Proposal
from lissom.methods.edp_settings import EdpSettings as EdpSettings
from lissom.methods.never_slower import NeverSlower
from lissom.methods.pair_clock import PairClock
from lissom.methods.timed import TimedSearch
from lissom.methods.units import check_ignored
from lissom.methods.weights import WeightMath
from lissom.plan.alignment import aligned_counts
from lissom.plan.budget import Budget
from lissom.plan.build import apply_values, build
from lissom.plan.cost import Cost
from lissom.relaxation.candidates import relaxed_layers
from lissom.relaxation.decay import DecaySteering
from lissom.relaxation.merging import Hardened
from lissom.relaxation.published import PublishedSchedule
from lissom.relaxation.rank_and_channels import RankAndChannels
from lissom.relaxation.steering import BudgetSteering
from lissom.relaxation.support import COLUMNS, Key, Slow, Support, as_support, nothing_slow
from lissom.search.price import Configuration
from lissom.sensitivity.statistics import input_covariances
from lissom.train.processes import Processes

_NAMED = 3  # layers that a message names


class Edp:
    """Relaxes, trains, hardens.

    Attributes:
        name: ``edp``.
        trains: True.
        limits: MACs and parameters; latency where the support is cut at the start.
    """

    name = "edp"
    trains = True
    limits = COUNTS | {"latency"}

    def __init__(self, settings: EdpSettings | None = None) -> None:
        self.settings = settings or EdpSettings()

    @property
    def from_scratch(self) -> bool:
        """Tell whether the network starts without trained weights."""
        return self.settings.start == "scratch"

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
        self._check_faithful(view)
        self._check_timed(budget)
        relaxation = self._relaxation(
            view, self._statistics(view), view.clock if budget.latency else None
        )
        relaxed = relaxation.relax(copy.deepcopy(view.model))
        _check_relaxed(relaxation)
        companion = self._steered(relaxation, view, budget)
        training = view.train(relaxed, companion, rate_factor=self.settings.rate)
        if isinstance(companion, BudgetSteering) and relaxation.support is None:
            companion.cut()  # no epochs, no step
        before = view.score(relaxed.eval())
        clock = self._clock(relaxation, view, budget)
        hardened = relaxation.harden(relaxed, clock.pays if clock else None)
        predicted = relaxation.pricer.price(hardened.configuration)
        after = view.score(_built(view.model, hardened))
        measured: dict[str, Any] = {
            "accuracy_before_merge": before,
            "accuracy_after_merge": after,
            "round_to": _step(view),
            "pair_and_layer_ms": dict(clock.times) if clock else {},
            "merged_by_cost": clock.busy if clock else "",
            **companion.notes,
        }
        evidence = _evidence(self.settings, relaxation, hardened, companion.trajectory)
        return Proposal(
            plan=hardened.plan,
            values=hardened.values,
            predicted=predicted,
            evidence={**measured, **evidence},
            training=training,
            above=self._above(predicted, view, budget),
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

    def _check_timed(self, budget: Budget) -> None:
        """Refuse a limit on latency where the network that will be is not known at the start."""
        settings = self.settings
        if budget.latency and (settings.mode == "faithful" or settings.ramp().cut > 0):
            raise RecipeError(
                f"budget: latency={budget.latency.text}: edp keeps it where the support is cut at "
                "the start of the training; use mode=budget with split=spatial, or ramp_end=0 and "
                "cut_at=0"
            )

    def _relaxation(
        self, view: ModelView, covariances: dict[str, Tensor], clock: Clock | None = None
    ) -> RankAndChannels:
        check_ignored(view.graph, view.ignore)
        return RankAndChannels(
            view.model,
            view.graph,
            view.example_inputs,
            self.settings.relaxation(),
            covariances=covariances,
            ignore=view.ignore,
            clock=clock,
        )

    def _steered(
        self, relaxation: RankAndChannels, view: ModelView, budget: Budget
    ) -> BudgetSteering | PublishedSchedule:
        """Give what brings the relaxation to the budget; what was timed is in its notes."""
        settings = self.settings
        if settings.mode == "faithful":
            lambdas = settings.lam_rank, settings.lam_channel
            return PublishedSchedule(relaxation, *lambdas, settings.steer_every)
        checked: dict[str, Any] = {}
        slow = self._slow(view, checked)
        limits = budget.limits(view.graph.cost)
        if budget.latency is None:
            companion = self._companion(relaxation, view, limits, slow=_by_first(slow))
            companion.notes["never_slower"] = checked
            return companion
        plain = relaxation.pricer.price(Configuration()).nanoseconds
        chooser = self._companion(relaxation, view, {**limits, "nanoseconds": plain}, slow=slow)
        search = TimedSearch[Support].of(view, budget.latency, plain)
        weights = WeightMath(view.model, view.graph, {}, whiten=False, rebuild=False)
        # Every process would tell other times, and then train another network.
        support, facts = Processes.here().from_first(
            lambda: search.run(
                lambda limit: chooser.choose({**limits, "nanoseconds": limit}),
                lambda one: relaxation.pricer.price(relaxation.configuration(one)).nanoseconds,
                lambda one: weights.built(relaxation.configuration(one)),
            )
        )
        relaxation.limit_ranks(Processes.here().from_first(lambda: chooser.most))
        now = relaxation.pricer.price(relaxation.configuration(support))
        limits = {**limits, "nanoseconds": now.nanoseconds}
        companion = self._companion(relaxation, view, limits)
        companion.decide(support)
        companion.notes |= {"latency": facts, "never_slower": checked}
        return companion

    def _companion(
        self,
        relaxation: RankAndChannels,
        view: ModelView,
        limits: Mapping[str, int],
        *,
        slow: Slow = nothing_slow,
    ) -> BudgetSteering:
        settings, step = self.settings, _step(view)
        ramp = settings.ramp()
        given: dict[str, Any] = {"round_to": step, "slow": slow}
        if relaxation.decays:
            return DecaySteering(relaxation, limits, ramp, lead=settings.lead, **given)
        return BudgetSteering(relaxation, limits, ramp, **given)

    def _slow(self, view: ModelView, checked: dict[str, Any]) -> Slow:
        """Give what tells what is slow; with merge=never that is of no interest.

        Args:
            view: Has the clock.
            checked: Takes a note where the machine is too busy to tell.
        """
        guard = None if self.settings.merge == "never" else NeverSlower[None].of(view)
        if guard is None:
            return nothing_slow

        def slow(now: Configuration) -> Mapping[Key, int]:
            try:
                return guard.most_that_pay(now)
            except MeasureError as error:
                checked["not_checked"] = str(error)
                return {}

        return slow

    def _above(self, cost: Cost, view: ModelView, budget: Budget) -> str:
        """Say what to do where the published form, which aims at no budget, is above it."""
        if self.settings.mode != "faithful" or budget.met(view.graph.cost, cost):
            return ""
        return (
            f"mode=faithful with lam_rank={self.settings.lam_rank} and "
            f"lam_channel={self.settings.lam_channel} came to {cost.macs:,} MACs and "
            f"{cost.params:,} parameters, above the budget {budget}; raise the multipliers, train "
            "longer, or use mode=budget"
        )

    def _check_faithful(self, view: ModelView) -> None:
        if self.settings.mode == "faithful" and view.round_to not in ("auto", 1):
            raise RecipeError(
                f"round_to={view.round_to}: has no effect in mode=faithful, which cuts by a "
                "threshold; drop it, or use mode=budget"
            )

    def _clock(
        self, relaxation: RankAndChannels, view: ModelView, budget: Budget
    ) -> PairClock | None:
        if self.settings.merge != "time":
            return None
        return PairClock(relaxation, view, budget.limits(view.graph.cost))


def _check_relaxed(relaxation: RankAndChannels) -> None:
    if not relaxation.columns and not relaxation.rows:
        reasons = {**relaxation.whole, **relaxation.refused}
        named = "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:_NAMED])
        raise BudgetError(
            "edp: no layer's rank and no channels can be learned here"
            f"{f' ({named})' if named else ''}; ignore fewer layers, or use another method"
        )


def _by_first(slow: Slow) -> Slow:
    """Let the first process tell: every one would find other times, and train another network."""
    if slow is nothing_slow:
        return slow
    return lambda now: Processes.here().from_first(lambda: slow(now))


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
