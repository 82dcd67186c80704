"""AJC: sparsity and bit width of every layer learned in one training, for the bytes of the file.

Yao, Peng, Yu, Liu, Peng, Chinese Journal of Scientific Instrument 44(5), 2023; a reconstruction
from the abstract.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lissom.errors import BudgetError, LissomError, RecipeError
from lissom.extension import ModelView, Proposal
from lissom.methods.forming import Forming
from lissom.methods.post_training import PostTraining, covariance_layers, measure_gains
from lissom.methods.post_training_search import Untrained, chosen
from lissom.methods.units import check_ignored
from lissom.methods.wish import Wish
from lissom.plan.budget import Budget
from lissom.plan.cost import Cost
from lissom.plan.plan import Plan
from lissom.plan.quantize import Quantize
from lissom.quantization.final_form import FinalForm
from lissom.quantization.goals import FileBytes, Goal, MostDrop, Phases
from lissom.quantization.layers import quantizable
from lissom.quantization.levelled import Levelled
from lissom.quantization.steering import SizeSteering
from lissom.quantization.variants import ALLOCATIONS, ORDERS, PRICES, attach_variant
from lissom.sensitivity.statistics import input_covariances
from lissom.train.processes import Processes

_BITS_PER_BYTE = 8
_CHOICES = {
    "mode": ("joint", "post_training"),
    "start": ("post_training", "plain"),
    "price": PRICES,
    "order": ORDERS,
    "allocation": ALLOCATIONS,
}


@dataclass(frozen=True, slots=True)
class AjcSettings:
    """Free choices of the method.

    Attributes:
        mode: ``joint``: sparsity and levels learned in one training; ``post_training``: no training
            and no labels, levels by rate and distortion on calibration images.
        price: What a level costs: what the ``coder`` will charge, or ``binary_entropy``: so many
            bits per non-zero weight and an ideal mask, as published.
        order: ``joint``, or ``prune_then_quantize``, an ablation.
        allocation: ``learned`` per layer, or ``uniform``, an ablation: one density, and
            ``start_bits`` bits, for all layers.
        statistics_images: Calibration images for levels without training; 0: none are looked at.
        start: Where the training begins: at the levels that ``post_training`` would choose for the
            budget, or ``plain``, at ``start_bits`` everywhere, with a ramp down to the budget;
            ``order`` and ``allocation`` as ablations always start so.
        start_bits: Bits per weight, sign included, of a plain start.
        rate_factor: Peak learning rate of the weights, as a multiple of recovery's.
        quantizer_rate: Peak learning rate of steps, thresholds and ranges (Adam); None: 0.001, and
            more in short trainings.
        ramp_start: Of a plain start: share of the training after which the size that is aimed at
            begins to fall.
        ramp_end: Where it has reached the budget.
        hold_at: Where levels are trimmed to the budget and held; scales, biases and batch norms
            train on.
        steer_every: Steps between two looks at the size.
        weighings: How often the real file is weighed before levels are held.
    """

    mode: str = "joint"
    price: str = "coder"
    order: str = "joint"
    allocation: str = "learned"
    statistics_images: int = 1024
    start: str = "post_training"
    start_bits: int = 4
    rate_factor: float = 2.5
    quantizer_rate: float | None = None
    ramp_start: float = 0.02
    ramp_end: float = 0.5
    hold_at: float = 0.85
    steer_every: int = 50
    weighings: int = 15

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise RecipeError(
                    f"{name}={getattr(self, name)!r}: expected one of {', '.join(known)}"
                )
        ablations = (self.price != "coder", self.order != "joint", self.allocation != "learned")
        if sum(ablations) > 1:
            raise RecipeError(
                f"price={self.price}, order={self.order}, allocation={self.allocation}: ablations "
                "are taken one at a time; leave the others as they are"
            )
        if self.statistics_images < 0:
            raise RecipeError(f"statistics_images={self.statistics_images}: expected 0 or more")
        if not 1 <= self.start_bits <= 8:
            raise RecipeError(f"start_bits={self.start_bits}: expected 1 to 8")
        for name in ("rate_factor", "quantizer_rate"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise RecipeError(f"{name}={getattr(self, name)}: expected more than 0")
        self.phases()

    @property
    def starts_without_training(self) -> bool:
        """Tell whether the training begins at the levels of ``post_training``."""
        ours = self.order == "joint" and self.allocation == "learned"
        return self.start == "post_training" and ours

    def phases(self) -> Phases:
        """Give the times of the training."""
        return Phases(
            self.ramp_start, self.ramp_end, self.hold_at, self.steer_every, self.weighings
        )


class Ajc:
    """Quantizes with learned dead zones, trains, hardens, packs.

    Attributes:
        name: ``ajc``.
        trains: Unless ``mode`` is ``post_training``.
        limits: The size of the file, or the quality that may be lost.
    """

    name = "ajc"
    limits = frozenset({"size", "max_drop"})

    def __init__(self, settings: AjcSettings | None = None) -> None:
        self.settings = settings or AjcSettings()

    @property
    def trains(self) -> bool:
        """Tell whether ``plan`` trains."""
        return self.settings.mode == "joint"

    def smallest(self, view: ModelView) -> Cost:
        """Give the cost with nothing but zeros for weights: what the file takes besides levels."""
        layers, _ = self._layers(view)
        form = Forming(view, layers)
        zeros = {
            name: Levelled(
                torch.zeros_like(view.model.get_submodule(name).weight, dtype=torch.int32),  # type: ignore[arg-type]
                torch.ones(()),
            )
            for name in layers
        }
        packed = form.packed(form.of(view.model, zeros))
        return replace(view.graph.cost, bits=_BITS_PER_BYTE * len(packed.content))

    def _layers(self, view: ModelView) -> tuple[tuple[str, ...], dict[str, str]]:
        check_ignored(view.graph, view.ignore)
        return quantizable(view.model, view.graph, view.ignore)

    def plan(self, view: ModelView, budget: Budget) -> Proposal:
        """Train quantizers with the run's settings, or choose levels without training; harden.

        Where both a size and a drop are given, the size is what is steered to.

        Raises:
            BudgetError: The budget limits neither, or the file can't be made that small.
            LissomError: The view can't train (a preview).
        """
        if self.trains and view.train is None:
            raise LissomError("ajc decides by training, which a preview does not do")
        layers, refused = self._layers(view)
        if not layers:
            raise BudgetError(f"ajc: there is no layer to quantize: {_reasons(refused)}")
        wish = Wish.of(budget, view)
        forming = Forming(view, layers)
        found = (self._trained if self.trains else self._untrained)(view, wish, forming)
        packed, network = forming.packed(found.form), forming.built(found.form)
        predicted = replace(
            view.graph.cost,
            params=sum(parameter.numel() for parameter in network.parameters()),
            bits=_BITS_PER_BYTE * len(packed.content),
        )
        return Proposal(
            plan=Plan(found.form.plan),
            values=found.form.values,
            predicted=predicted,
            evidence={
                **found.evidence,
                "held_out_drop": wish.drop(network),
                "layers": _levels_of(found.form),
                "folded": forming.folds,
                "left_alone": refused,
            },
            training=found.training,
            settled=True,
        )

    def _trained(self, view: ModelView, wish: Wish, forming: Forming) -> _Found:
        """Learn steps, dead zones and weights in one training."""
        assert view.train is not None
        settings, phases = self.settings, self.settings.phases()
        relaxed = copy.deepcopy(view.model)
        network = attach_variant(
            relaxed,
            forming.layers,
            settings.start_bits,
            price=settings.price,
            order=settings.order,
            allocation=settings.allocation,
        )
        untrained: Untrained | None = None
        if settings.starts_without_training:
            untrained = Processes.here().from_first(
                lambda: self._by_distortion(view, wish, forming)
            )
            network.start_from(untrained[1])
        processes = Processes.here()  # one judges, so that all come to the same
        goal: Goal = MostDrop(
            wish.allowed, lambda: processes.from_first(lambda: wish.drop(relaxed)), phases
        )
        if wish.limit is not None:
            goal = FileBytes(wish.limit, phases)
        weigh = partial(forming.weigh, relaxed)
        steering = SizeSteering(network, goal, weigh, phases, settings.quantizer_rate)
        training = view.train(relaxed, steering, rate_factor=settings.rate_factor)
        evidence: dict[str, Any] = {
            "recalibration": view.recalibrate(relaxed.eval()) if view.recalibrate else None,
            "accuracy_before_hardening": view.score(relaxed) if view.score else None,
            "trajectory": steering.trajectory,
        }
        form = forming.wished(relaxed, network.levelled(), wish)
        missed = wish.limit is None and wish.drop(forming.built(form)) > wish.allowed
        if untrained is not None and missed:
            # Steered to a quality that it then missed: what held it before the training still does.
            before = forming.wished(untrained[0], untrained[1], wish)
            if wish.drop(forming.built(before)) <= wish.allowed:
                form, evidence["kept"] = before, "levels without training"
        return _Found(form, evidence, training)

    def _untrained(self, view: ModelView, wish: Wish, forming: Forming) -> _Found:
        """Choose levels by rate and distortion."""
        network, levels, recalibration = self._by_distortion(view, wish, forming)
        form = forming.wished(network, levels, wish)
        return _Found(form, {"recalibration": recalibration}, None)

    def _by_distortion(self, view: ModelView, wish: Wish, forming: Forming) -> Untrained:
        """Choose levels on calibration images, or on the weights alone where none are asked for."""
        images, layers = self.settings.statistics_images, forming.layers
        covariances: Mapping[str, Tensor] = {}
        gains: Mapping[str, float] = {}
        if images:
            batches, measurable = view.data.calibration, covariance_layers(view.model, layers)
            covariances = input_covariances(view.model, measurable, batches, view.task, images)
            gains = measure_gains(view, layers, images, covariances)
        return chosen(view, wish, forming, PostTraining(view.model, layers, covariances, gains))


@dataclass(frozen=True, slots=True)
class _Found:
    """What training, or rate and distortion, came to."""

    form: FinalForm
    evidence: Mapping[str, Any]
    training: Mapping[str, Any] | None


def _levels_of(form: FinalForm) -> dict[str, Any]:
    """Say of each layer with levels how many bits they have, and which share of them is not 0."""
    return {
        one.layer: {
            "bits": one.bits,
            "density": one.nonzero / form.values[f"{one.layer}.weight"].numel(),
        }
        for one in form.plan
        if isinstance(one, Quantize)
    }


def _reasons(refused: Mapping[str, str]) -> str:
    if not refused:
        return "the network has no convolution and no linear layer"
    return "; ".join(f"{layer}: {reason}" for layer, reason in list(refused.items())[:5])
