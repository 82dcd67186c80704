"""Settings of EDP."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import chain

from lissom.errors import RecipeError
from lissom.relaxation.ramp import Ramp
from lissom.relaxation.settings import RelaxationSettings
from lissom.relaxation.support import COLUMNS, ROWS

MODES = ("budget", "faithful")
MERGES = ("cost", "time", "never")
_RATE = 5.0


@dataclass(frozen=True, slots=True)
class EdpSettings:
    """Free choices of the method.

    Attributes:
        mode: ``budget`` steers to the budget and meets it exactly; ``faithful`` is the published
            form: fixed multipliers, plain start, rows of A, a threshold at the end.
        learn: ``columns`` (ranks), ``rows`` (channels), or both.
        start: ``trained``, or ``scratch`` for a network as it was initialised: without a teacher it
            learns from the labels alone.
        split: ``channel`` (k x k and 1 x 1), as published; ``spatial`` (kernels of more than one
            row and column become k x 1 and 1 x k), from trained weights in ``budget`` alone; or
            ``auto``: spatial where that can be and ``penalty`` is ``decay``.
        row_groups: ``inner``, or ``all`` for channels that residual sums couple, too.
        penalty: ``decay`` (what is about to go fades, the rest is left alone), ``energy``
            (reweighted lasso) or ``norm`` (group lasso), which ``faithful`` always has.
        merge: Pairs become one layer where that costs no more (``cost``), where it is faster as
            measured (``time``), or ``never``.
        rate_factor: Peak learning rate, as a multiple of ``recover.learning_rate``, 0.004 where
            that is not set. High rates forget what trained weights have memorised; set 1 where it
            is high already. -1: 5, but 1 from scratch and in ``faithful``.
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
    rate_factor: float = -1.0
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
        self._check_numbers()
        self._check_ramp()
        usual = {field.name: field.default for field in fields(self)}
        for name, why in chain(self._idle_by_mode(), self._idle_by_time(), self._idle_by_start()):
            if getattr(self, name) != usual[name]:
                raise RecipeError(f"{name}={getattr(self, name)!r}: has no effect {why}")
        self.relaxation()

    def _check_numbers(self) -> None:
        images = self.statistics_images
        if images < 1 or images != int(images):
            raise RecipeError(f"statistics_images={images}: expected a whole number of at least 1")
        for name in ("lam_rank", "lam_channel"):
            if not getattr(self, name) >= 0:
                raise RecipeError(f"{name}={getattr(self, name)}: expected 0 or more")
        for name in ("rate_factor", "lead"):
            value = getattr(self, name)
            if not 0 < value < math.inf and (name, value) != ("rate_factor", -1):
                raise RecipeError(f"{name}={value}: expected a number above 0")

    def _check_ramp(self) -> None:
        ramp = self.ramp()
        if self.mode == "budget" and ramp.end == 0 < ramp.cut:
            raise RecipeError(
                f"cut_at={self.cut_at}: the target would be the budget from the first step on; set "
                "ramp_end, too, no later than cut_at"
            )
        if self.mode == "budget" and self.penalty != "decay" and ramp.cut == 0:
            raise RecipeError(
                f"penalty={self.penalty!r}: has no effect where the support is cut at the start; "
                "set ramp_end and cut_at (0.55 and 0.6), or penalty=decay"
            )

    def _idle_by_mode(self) -> Iterator[tuple[str, str]]:
        """Name what the mode leaves without effect, and say why."""
        if self.mode == "budget":
            yield "lam_rank", "in mode=budget, which finds its multipliers; drop it"
            yield "lam_channel", "in mode=budget, which finds its multipliers; drop it"
            return
        for name in ("penalty", "ramp_start", "ramp_end", "cut_at", "lead"):
            yield name, "in mode=faithful, whose schedule is the published one; drop it"
        yield "statistics_images", "in mode=faithful, which measures no inputs; drop it"
        if self.split == "spatial":
            yield "split", "in mode=faithful, whose split is the published one; drop it"

    def _idle_by_time(self) -> Iterator[tuple[str, str]]:
        """Name what the time of the cut leaves without effect, and say why."""
        if self.mode == "budget" and self.ramp().cut == 0:
            yield "lead", "where the support is cut at the start; set ramp_end and cut_at"
        if self.penalty != "decay":
            yield "lead", f"with penalty={self.penalty}; drop it"

    def _idle_by_start(self) -> Iterator[tuple[str, str]]:
        """Name what the start and what is learned leave without effect, and say why."""
        if self.start == "scratch":
            yield "statistics_images", "with start=scratch, which measures no inputs; drop it"
        if COLUMNS not in self.learn:
            yield "split", "where no ranks are learned (learn has no columns); drop it"
            yield "statistics_images", "where no ranks are learned; drop it"

    @property
    def rate(self) -> float:
        """Give the peak learning rate as a multiple of the run's."""
        if self.rate_factor != -1:
            return self.rate_factor
        return _RATE if self.mode == "budget" and self.start == "trained" else 1.0

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
