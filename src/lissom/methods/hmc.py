"""HMC: low-rank decomposition and structured pruning, grouped by layer sensitivity.

Re-implementation from the abstract of Yang, Yu, Yang, Nie, Wang, PLOS ONE 18(10): e0292517, 2023.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lissom.errors import RecipeError
from lissom.extension import COUNTS, ModelView, Proposal
from lissom.graph.layers import ModelGraph
from lissom.methods.grouping import ALONE, GROUPS, RULES, Rule, restricted
from lissom.methods.grouping import VARIANTS as VARIANTS
from lissom.methods.importance import cuts_of, importances
from lissom.methods.menu import FAMILIES
from lissom.methods.probes import Probing, Sensitivities
from lissom.methods.solving import Solution, Solver
from lissom.methods.space import KEEP, menu_of
from lissom.methods.units import Unit, units_of
from lissom.methods.weights import WeightMath, plain_layers
from lissom.plan.budget import Budget
from lissom.plan.cost import Cost
from lissom.plan.plan import Plan
from lissom.pruning.cut import Criterion
from lissom.search.price import Pricer
from lissom.sensitivity.statistics import input_covariances


@dataclass(frozen=True, slots=True)
class HmcSettings:
    """Free choices of the method.

    Attributes:
        variant: ``hmc`` (four groups), ``nahc`` (each unit pruned or decomposed, never both),
            ``ahc`` (every unit pruned, and what remains decomposed), ``prune_only`` or
            ``decompose_only`` (one family alone, to compare with).
        criterion: Channel importance: ``reconstruction`` (second order), ``l1``, ``l2``,
            ``group_l2``, ``fpgm``, ``bn_scale`` or ``taylor``.
        families: Decompositions on offer: ``tucker2``, ``channel_svd``.
        fractions: Removed fractions x at which sensitivity is measured: MACs removed anywhere /
            MACs of the unit's producers.
        images: Calibration images for the sensitivities.
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
        rounds: How often the groups are formed: first at ``fractions``, then again at the removed
            fractions that were solved for.
        whiten: Factorize against the input covariance (least output error) rather than the weight.
        rebuild: Rebuild what remains of a consumer's weight after its inputs are cut, in closed
            form.
    """

    variant: str = "hmc"
    criterion: str = "reconstruction"
    families: tuple[str, ...] = FAMILIES
    fractions: tuple[float, ...] = (0.25, 0.5, 0.75, 0.9)
    images: int = 512
    statistics_images: int = 2048
    rule: str = "tau"
    tau: float = -1.0
    standard_errors: float = 1.0
    groups: str = "measured"
    groups_seed: int = -1
    keep_above: float = math.inf
    rounds: int = 2
    whiten: bool = True
    rebuild: bool = True

    def __post_init__(self) -> None:
        choices = {"variant": (*VARIANTS, *ALONE), "rule": RULES, "groups": GROUPS}
        for name, known in {**choices, "criterion": tuple(Criterion)}.items():
            if getattr(self, name) not in known:
                raise RecipeError(
                    f"{name}={getattr(self, name)!r}: expected one of {', '.join(known)}"
                )
        unknown = set(self.families) - set(FAMILIES)
        if unknown or not self.families:
            raise RecipeError(
                f"families={list(self.families)}: expected some of {', '.join(FAMILIES)}"
            )
        if not self.fractions or not all(0 < x < 1 for x in self.fractions):
            raise RecipeError(f"fractions={list(self.fractions)}: expected numbers in (0, 1)")
        self._check_numbers()
        self._check_grouping()

    def _check_numbers(self) -> None:
        for name in ("images", "statistics_images", "rounds"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name}={getattr(self, name)}: expected at least 1")
        if math.isnan(self.tau):
            raise RecipeError("tau=nan: expected a number of nats, or -1 to choose it by itself")
        if not self.keep_above > 0:
            raise RecipeError(f"keep_above={self.keep_above}: expected more than 0")
        if not self.standard_errors >= 0:
            raise RecipeError(f"standard_errors={self.standard_errors}: expected at least 0")

    def _check_grouping(self) -> None:
        """Refuse what would change nothing: a row of an ablation would not be what it says."""
        variant = self.variant
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


class Hmc:
    """Measures, groups, searches, factorizes.

    Attributes:
        name: ``hmc``; the variants are settings.
        trains: False: recovery comes after the decision.
        limits: MACs and parameters.
    """

    name = "hmc"
    trains = False
    limits = COUNTS

    def __init__(self, settings: HmcSettings | None = None) -> None:
        self.settings = settings or HmcSettings()

    def smallest(self, view: ModelView) -> Cost:
        """Give the smallest cost on the menu, per quantity, without any measurement."""
        units = self._units(view)
        # Which channels stay makes no difference to what they cost, so any cheap criterion will do.
        cuts = cuts_of(units, importances(units, view, "l2", {}), view.round_to)
        pricer = Pricer(view.model, view.graph)
        menu = menu_of(units, cuts, pricer, self.settings.families, view.round_to)
        return menu.smallest(self.settings.variant)

    def plan(self, view: ModelView, budget: Budget) -> Proposal:
        """Decide by measured sensitivity.

        Raises:
            BudgetError: Nothing on the menu meets the budget.
        """
        settings = self.settings
        units = self._units(view)
        weights = self._statistics(view)
        scores = importances(units, view, settings.criterion, weights.covariances)
        pricer = Pricer(view.model, view.graph)
        cuts = cuts_of(units, scores, view.round_to)
        menu = menu_of(units, cuts, pricer, settings.families, view.round_to)
        statistics = f"statistics_images={settings.statistics_images}"
        probing = Probing(view, scores, settings.families, weights, pricer, statistics)
        sensitivities = probing.measure(units, settings.fractions, settings.images)
        view.say(sensitivities.summary)
        solver = Solver(menu, sensitivities, budget.limits(view.graph.cost), self._rule)
        measured = solution = solver.solve(settings.fractions, settings.rounds)
        if settings.groups != "measured":
            seed = view.seed if settings.groups_seed < 0 else settings.groups_seed
            solution = solver.control(measured, settings.groups, seed)
        configuration = menu.configuration(solution.items, solution.choice)
        decisions, values = weights.realise(configuration)
        return Proposal(
            plan=Plan(decisions),
            values=values,
            predicted=pricer.price(configuration),
            labels=_layer_labels(view.graph, units, solution.groups),
            sensitivities=sensitivities.by_layer(units),
            evidence={
                **_evidence(settings, solution, sensitivities),
                "units": _unit_rows(units, measured, solution, sensitivities),
            },
        )

    @property
    def _rule(self) -> Rule:
        settings = self.settings
        tau = None if settings.tau < 0 else settings.tau
        return Rule(
            settings.variant, tau, settings.keep_above, settings.rule, settings.standard_errors
        )

    def _units(self, view: ModelView) -> tuple[Unit, ...]:
        return restricted(units_of(view.graph, view.ignore), self.settings.variant)

    def _statistics(self, view: ModelView) -> WeightMath:
        """Measure the input covariances; with them, weights can be factorized and rebuilt."""
        settings = self.settings
        covariances = input_covariances(
            view.model,
            plain_layers(view.model, view.graph),
            view.data.calibration,
            view.task,
            settings.statistics_images,
        )
        return WeightMath(view.model, view.graph, covariances, settings.whiten, settings.rebuild)


def _layer_labels(
    graph: ModelGraph, units: Sequence[Unit], labels: Mapping[str, str]
) -> dict[str, str]:
    """Give each layer its unit's label; "" to layers that only follow others (norms, say)."""
    mine = {layer: labels[unit.name] for unit in units for layer in unit.members}
    alone = {layer.name: KEEP if layer.cost.macs else "" for layer in graph.layers}
    return {name: mine.get(name, label) for name, label in alone.items()}


def _evidence(
    settings: HmcSettings, solution: Solution, sensitivities: Sensitivities
) -> dict[str, object]:
    low, high = (border if math.isfinite(border) else None for border in solution.borders)
    return {
        "variant": settings.variant,
        "criterion": settings.criterion,
        "rule": settings.rule,
        "groups": settings.groups,
        "borders": {"decompose_below": low, "prune_above": high},
        "widened": list(solution.widened),
        "harm": solution.harm,
        "noise": sensitivities.noise,
        "forwards": sensitivities.forwards,
    }


def _unit_rows(
    units: Sequence[Unit], measured: Solution, solution: Solution, sensitivities: Sensitivities
) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for unit in units:
        difference = solution.difference.get(unit.name)
        curves = sensitivities.curves[unit.name]
        rows.append(
            {
                "name": unit.name,
                "layers": list(unit.members),
                "label": solution.groups[unit.name],
                "asked": solution.asked[unit.name],
                "measured": measured.asked[unit.name],
                "difference": None if difference is None else difference.value,
                "difference_error": None if difference is None else difference.error,
                "curves": {family: curve.points for family, curve in curves.items()},
                "errors": {family: curve.errors for family, curve in curves.items()},
            }
        )
    return rows
