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

from lissom.errors import BudgetError, LissomError
from lissom.extension import ModelView, Proposal
from lissom.methods.ajc_settings import AjcSettings
from lissom.methods.forming import Forming
from lissom.methods.post_training import PostTraining, measure_covariances, measure_gains
from lissom.methods.post_training_search import Untrained, chosen
from lissom.methods.units import check_ignored
from lissom.methods.wish import Wish
from lissom.plan.budget import Budget
from lissom.plan.cost import Cost
from lissom.plan.plan import Plan
from lissom.plan.quantize import Quantize
from lissom.quantization.final_form import FinalForm
from lissom.quantization.goals import FileBytes, Goal, MostDrop
from lissom.quantization.layers import quantizable
from lissom.quantization.levelled import Levelled
from lissom.quantization.steering import SizeSteering
from lissom.quantization.variants import attach_variant
from lissom.train.processes import Processes

_BITS_PER_BYTE = 8


class Ajc:
    """Quantizes with learned dead zones, trains, hardens, packs.

    Attributes:
        name: ``ajc``.
        trains: Unless ``mode`` is ``post_training``.
        settles: True: every value stays as it is decided, no recovery follows.
        limits: The size of the file, or the quality that may be lost.
    """

    name = "ajc"
    settles = True
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
        if untrained is not None and wish.limit is None:
            before = forming.wished(untrained[0], untrained[1], wish)
            if _better(before, form, wish, forming):
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
            covariances = measure_covariances(view, layers, images)
            gains = measure_gains(view, layers, images, covariances)
        return chosen(view, wish, forming, PostTraining(view.model, layers, covariances, gains))


@dataclass(frozen=True, slots=True)
class _Found:
    """What training, or rate and distortion, came to."""

    form: FinalForm
    evidence: Mapping[str, Any]
    training: Mapping[str, Any] | None


def _better(one: FinalForm, other: FinalForm, wish: Wish, forming: Forming) -> bool:
    """Tell whether one form keeps the quality, and another does not or takes more bytes."""
    if wish.drop(forming.built(one)) > wish.allowed:
        return False
    smaller = len(forming.packed(one).content) < len(forming.packed(other).content)
    return smaller or wish.drop(forming.built(other)) > wish.allowed


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
