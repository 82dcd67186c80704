"""What a relaxation may let vanish, and how it measures that."""

from __future__ import annotations

from dataclasses import dataclass

from lissom.errors import RecipeError
from lissom.relaxation.support import COLUMNS, ROWS

_CHOICES = {
    "start": ("trained", "scratch"),
    "split": ("spatial", "channel"),
    "form": ("whitened", "plain"),
    "row_parts": ("norms", "filters"),
    "row_groups": ("inner", "all"),
    "penalty": ("decay", "energy", "norm"),
    "merge": ("cost", "never"),
}


@dataclass(frozen=True, slots=True)
class RelaxationSettings:
    """What may vanish, and how it is measured.

    Attributes:
        learn: ``columns`` (ranks), ``rows`` (channels), or both.
        start: ``trained``: the relaxed network computes what the original does; ``scratch``: new
            weights.
        split: ``channel``: every layer becomes k x k and 1 x 1, as published; ``spatial``: kernels
            of more than one row and column become k x 1 and 1 x k instead.
        form: ``whitened``: columns measured by the output that they carry, the gauge fixed after
            every step; ``plain``: by ||A_j|| alone.
        row_parts: ``norms``: scale and shift of the batch norms behind (filters where there are
            none); ``filters``: rows of A, whatever follows.
        row_groups: ``inner``: groups with one producer; ``all``: those that residual sums couple
            too.
        penalty: ``decay``: what is about to go shrinks, by the same share each step, and nothing
            else; ``energy``: what shrinks is the energy of a column or channel, at equal rates for
            equal cost (the reweighted lasso); ``norm``: its norm (the group lasso, as published).
        merge: ``cost``: a pair of factors that costs no less than the one layer counts as that
            layer; ``never``: as the pair that it stays.
    """

    learn: tuple[str, ...] = (COLUMNS, ROWS)
    start: str = "trained"
    split: str = "channel"
    form: str = "whitened"
    row_parts: str = "norms"
    row_groups: str = "inner"
    penalty: str = "energy"
    merge: str = "cost"

    def __post_init__(self) -> None:
        for field, choices in _CHOICES.items():
            if getattr(self, field) not in choices:
                raise RecipeError(
                    f"{field}={getattr(self, field)!r}: expected one of {', '.join(choices)}"
                )
        if self.split == "spatial" and (self.form, self.start) != ("whitened", "trained"):
            raise RecipeError(
                f"split=spatial: starts from trained weights, whitened (form={self.form}, "
                f"start={self.start}); set split=channel"
            )
        if not self.learn or set(self.learn) - {COLUMNS, ROWS}:
            raise RecipeError(f"learn={list(self.learn)}: expected columns, rows, or both")
