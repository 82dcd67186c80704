"""Settings of EDP."""

from __future__ import annotations

from dataclasses import dataclass

from lissom.errors import RecipeError
from lissom.relaxation.ramp import Ramp
from lissom.relaxation.settings import RelaxationSettings
from lissom.relaxation.support import COLUMNS, ROWS

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
