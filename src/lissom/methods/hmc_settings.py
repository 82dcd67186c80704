"""Free choices of HMC."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from lissom.errors import RecipeError
from lissom.lowrank.families import family_named
from lissom.methods.estimators import ESTIMATORS
from lissom.methods.grouping import ALONE, GROUPS, RULES, VARIANTS, choosable, decompositions
from lissom.methods.rank_rules import RANK_RULES
from lissom.pruning.cut import Criterion

DEPTHS = ("auto", "yes", "no")
_GROUPED = ("hmc", "nahc")
_PRUNING = (*_GROUPED, "ahc", "prune_only")
_DECOMPOSING = (*_GROUPED, "ahc", "ahc_sum", "decompose_only")
# The variants in which a setting changes anything; those that are not named do in all.
_EFFECTS = {
    "criterion": _PRUNING,
    "rebuild": _PRUNING,
    "families": _DECOMPOSING,
    "ranks": _DECOMPOSING,
    "whiten": _DECOMPOSING,
    "tau": ("hmc",),
    "standard_errors": ("hmc",),
    "rounds": (*_GROUPED, "ahc_sum", *ALONE),
    "keep_above": (*_GROUPED, "ahc_sum", *ALONE),
}


@dataclass(frozen=True, slots=True)
class HmcSettings:
    """Free choices of the method.

    Attributes:
        variant: ``hmc`` (four groups), ``nahc`` (each unit pruned or decomposed, never both),
            ``ahc`` (every unit pruned, and what remains decomposed), ``ahc_sum`` (no unit pruned,
            every layer the sum of a sparse and a low-rank one), ``prune_only`` or
            ``decompose_only`` (one family alone, to compare with).
        criterion: Channel importance: ``reconstruction`` (second order), ``l1``, ``l2``,
            ``group_l2``, ``fpgm``, ``bn_scale`` or ``taylor``.
        families: Decompositions on offer: ``tucker2``, ``channel_svd``, ``spatial_svd``,
            ``filter_cp``; ``tensor_train`` where it is named. None: the first four; for ``ahc_sum``
            it is ``sparse_plus_svd`` alone.
        ranks: Rule for the ranks on offer: ``relative`` (the same fraction of all full ranks),
            ``joint`` (the same, but for Tucker-2 and sums at each cost the pair that is predicted
            to err least), ``energy`` (per rank, what holds a share of the energy), or
            ``evbmf`` (what stands out of the noise: one choice per layer and family).
        fractions: Removed fractions x at which sensitivity is measured: MACs removed anywhere /
            MACs of the unit's producers.
        images: Calibration images for the sensitivities.
        estimator: ``measured``; ``second_order`` (from the curvature of each layer, without
            forward passes for each candidate) or, as an ablation, ``first_order`` (from the mean
            gradient of the loss; needs targets).
        compare: Report the rank correlation of the measured sensitivities with the second-order
            ones, where the task's distance is the KL divergence.
        statistics_images: Calibration images for the input covariances.
        rule: Borders of the group ``both``: ``tau``, or ``three_means`` (between the clusters of
            the differences).
        tau: Half width of the group ``both`` in nats of log harm; -1: a quarter of the median
            difference.
        standard_errors: A difference of at most so many of its own standard errors is noise: the
            unit goes to ``both`` whatever the borders. 0: noise is not looked at.
        groups: ``measured``; or a control that deals out the labels which were found anew, as many
            of each: ``random``, or ``inverted`` (prune and decompose change places).
        groups_seed: For ``random``; -1: the run's seed.
        keep_above: Units that harm more per MAC than this many times the median unit are kept
            whole whatever the budget; infinite: the search alone decides what stays whole.
        weigh: Which of the solutions is taken: ``measured``, the one whose network as a whole harms
            least, at several weights of pruning against decomposing; ``summed``, an ablation: the
            one whose units' harms have the least sum.
        rounds: How often the groups are formed: first at ``fractions``, then again at the removed
            fractions that were solved for.
        depth: Whether residual branches may go as a whole: ``yes``, ``no``, or ``auto``: where the
            budget limits latency.
        whiten: Factorize against the input covariance (least output error) rather than the weight.
        rebuild: Rebuild what remains of a consumer's weight after its inputs are cut, in closed
            form.
    """

    variant: str = "hmc"
    criterion: str = "reconstruction"
    families: tuple[str, ...] | None = None
    ranks: str = "joint"
    fractions: tuple[float, ...] = (0.25, 0.5, 0.75, 0.9)
    images: int = 512
    estimator: str = "measured"
    compare: bool = True
    statistics_images: int = 2048
    rule: str = "tau"
    tau: float = -1.0
    standard_errors: float = 1.0
    groups: str = "measured"
    groups_seed: int = -1
    keep_above: float = math.inf
    weigh: str = "measured"
    rounds: int = 2
    depth: str = "auto"
    whiten: bool = True
    rebuild: bool = True

    def __post_init__(self) -> None:
        choices = {"variant": (*VARIANTS, *ALONE), "rule": RULES, "groups": GROUPS}
        choices |= {"weigh": ("measured", "summed")}
        choices |= {"estimator": ESTIMATORS, "ranks": RANK_RULES, "depth": DEPTHS}
        for name, known in {**choices, "criterion": tuple(Criterion)}.items():
            if getattr(self, name) not in known:
                raise RecipeError(
                    f"{name}={getattr(self, name)!r}: expected one of {', '.join(known)}"
                )
        known = choosable(self.variant)
        if not set(self.offered) <= set(known) or not self.offered:
            raise RecipeError(
                f"families={list(self.offered)}: expected some of {', '.join(known)}, which are "
                f"what variant {self.variant} can offer; or drop families"
            )
        if self.ranks == "evbmf" and not any(family_named(f).has_unfoldings for f in self.offered):
            raise RecipeError(
                f"ranks='evbmf': the ranks of {', '.join(self.offered)} are those of no matrices; "
                "use ranks=relative, or offer another family"
            )
        if not self.fractions or not all(0 < x < 1 for x in self.fractions):
            raise RecipeError(f"fractions={list(self.fractions)}: expected numbers in (0, 1)")
        self._check_numbers()
        self._check_grouping()

    @property
    def offered(self) -> tuple[str, ...]:
        """Name the decompositions on offer."""
        return decompositions(self.variant) if self.families is None else self.families

    def _check_numbers(self) -> None:
        for name in ("images", "statistics_images", "rounds"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name}={getattr(self, name)}: expected at least 1")
        if not (self.tau >= 0 or self.tau == -1):
            raise RecipeError(
                f"tau={self.tau}: expected 0 or more nats, or -1 to choose it by itself"
            )
        if self.groups_seed < -1:
            raise RecipeError(
                f"groups_seed={self.groups_seed}: expected 0 or more, or -1 for the run's seed"
            )
        if not self.keep_above > 0:
            raise RecipeError(f"keep_above={self.keep_above}: expected more than 0")
        if not self.standard_errors >= 0:
            raise RecipeError(f"standard_errors={self.standard_errors}: expected at least 0")

    def _check_grouping(self) -> None:
        """Refuse what would change nothing: a row of an ablation would not be what it says."""
        variant = self.variant
        for field in fields(self):
            value, known = getattr(self, field.name), _EFFECTS.get(field.name, (variant,))
            if value != field.default and variant not in known:
                raise RecipeError(
                    f"{field.name}={value!r}: has no effect with variant={variant}; expected its "
                    f"default, {field.default!r}: leave it out, or use variant "
                    + " or ".join(known)
                )
        if self.groups != "measured" and variant not in ("hmc", "nahc"):
            raise RecipeError(
                f"groups={self.groups!r}: {variant} puts all units into one group, so that there "
                "is nothing to deal out; use variant hmc or nahc"
            )
        if self.groups_seed != -1 and self.groups != "random":
            raise RecipeError(
                f"groups_seed={self.groups_seed}: nothing is drawn with groups={self.groups!r}; "
                "drop it, or use groups=random"
            )
        if self.rule == "three_means" and variant != "hmc":
            raise RecipeError(
                f"rule='three_means': forms three groups, which only variant hmc has, not {variant}"
            )
        if self.rule == "three_means" and self.tau >= 0:
            raise RecipeError(
                f"tau={self.tau}: rule three_means finds the borders by itself; drop one of them"
            )
