"""What can be chosen of AJC, and which choices go together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from lissom.errors import RecipeError
from lissom.quantization.goals import Phases
from lissom.quantization.variants import ALLOCATIONS, ORDERS, PRICES

_CHOICES = {
    "mode": ("joint", "post_training"),
    "start": ("post_training", "plain"),
    "price": PRICES,
    "order": ORDERS,
    "allocation": ALLOCATIONS,
}
_Ways = tuple[Mapping[str, str], ...]
_TRAINED: _Ways = ({"mode": "joint"},)
_PLAIN: _Ways = (
    {"mode": "joint", "start": "plain"},
    {"mode": "joint", "order": "prune_then_quantize"},
    {"mode": "joint", "allocation": "uniform"},
)
_UNTRAINED: _Ways = (
    {"mode": "post_training"},
    {"start": "post_training", "order": "joint", "allocation": "learned"},
)
# Under which other settings one changes anything: any of the ways is enough.
_EFFECTS: Mapping[str, _Ways] = {
    "price": _TRAINED,
    "order": _TRAINED,
    "allocation": _TRAINED,
    "statistics_images": _UNTRAINED,
    "start": _TRAINED,
    "start_bits": _PLAIN,
    "rate_factor": _TRAINED,
    "quantizer_rate": ({"mode": "joint", "allocation": "learned"},),
    "ramp_start": _TRAINED,
    "ramp_end": _PLAIN,
    "hold_at": _TRAINED,
    "steer_every": _TRAINED,
    "weighings": _TRAINED,
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
        rate_factor: Peak learning rate of the weights, as a multiple of ``recover.learning_rate``,
            0.004 where that is not set.
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
            if value is not None and not 0 < value < math.inf:
                raise RecipeError(f"{name}={value}: expected a finite number above 0")
        self._check_times()
        self._check_effects()

    @property
    def starts_without_training(self) -> bool:
        """Tell whether the training begins at the levels of ``post_training``."""
        ours = self.order == "joint" and self.allocation == "learned"
        return self.start == "post_training" and ours

    def phases(self) -> Phases:
        """Give the times of the training."""
        ramp_end = self.ramp_end
        if self.starts_without_training:  # at the budget already, however early levels are held
            ramp_end = ramp_end if self.ramp_start < ramp_end <= self.hold_at else self.hold_at
        return Phases(self.ramp_start, ramp_end, self.hold_at, self.steer_every, self.weighings)

    def _check_times(self) -> None:
        start, end, hold = self.ramp_start, self.ramp_end, self.hold_at
        if self.starts_without_training:
            if not 0 <= start < hold < 1:
                raise RecipeError(
                    f"ramp_start={start}, hold_at={hold}: expected 0 <= ramp_start < hold_at < 1"
                )
        elif not 0 <= start < end <= hold < 1:
            raise RecipeError(
                f"ramp_start={start}, ramp_end={end}, hold_at={hold}: expected "
                "0 <= ramp_start < ramp_end <= hold_at < 1"
            )
        for name in ("steer_every", "weighings"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name}={getattr(self, name)}: expected 1 or more")

    def _check_effects(self) -> None:
        """Refuse settings that would change nothing.

        Raises:
            RecipeError: Names the first.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            ways = _EFFECTS.get(field.name, ({},))
            if value == field.default or any(map(self._holds, ways)):
                continue
            other = next(name for name, wanted in ways[0].items() if getattr(self, name) != wanted)
            raise RecipeError(
                f"{field.name}={value!r}: has no effect with {other}={getattr(self, other)}; "
                f"expected its default, {field.default!r}: leave it out, or set "
                + " or ".join(map(_spelled, ways))
            )

    def _holds(self, way: Mapping[str, str]) -> bool:
        return all(getattr(self, name) == wanted for name, wanted in way.items())


def _spelled(way: Mapping[str, str]) -> str:
    return " and ".join(f"{name}={wanted}" for name, wanted in way.items())
