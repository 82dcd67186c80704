"""HMC: low-rank decomposition and structured pruning, grouped by layer sensitivity.

Re-implementation from the abstract of Yang, Yu, Yang, Nie, Wang, PLOS ONE 18(10): e0292517, 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import isfinite
from typing import Any

from torch import Tensor

from lissom.extension import COUNTS, ModelView, Proposal
from lissom.graph.branches import Branch
from lissom.methods.branch_harms import cost_by, drop_harms, droppable, dropped_labels
from lissom.methods.estimators import compared, estimator_of
from lissom.methods.grouping import VARIANTS as VARIANTS
from lissom.methods.grouping import Rule, restricted
from lissom.methods.hmc_evidence import branch_rows, evidence_of, layer_labels, unit_rows
from lissom.methods.hmc_settings import HmcSettings as HmcSettings
from lissom.methods.importance import cuts_of, importances
from lissom.methods.never_slower import NeverSlower
from lissom.methods.probes import Probing
from lissom.methods.rank_rules import rank_rule, unmeasured_rule
from lissom.methods.sensitivities import Sensitivities
from lissom.methods.solving import Solution, Solver
from lissom.methods.space import menu_of
from lissom.methods.timed import TimedSearch
from lissom.methods.units import Unit, units_of
from lissom.methods.weighing import Weighing, WholeHarm
from lissom.methods.weights import WeightMath, plain_layers
from lissom.plan.budget import Budget
from lissom.plan.cost import Cost
from lissom.plan.plan import Plan
from lissom.search.price import Configuration, Pricer
from lissom.sensitivity.statistics import input_covariances
from lissom.train.processes import Processes

Found = tuple[Solution, Solution]  # under the measured labels, and, of a control, under its own


class Hmc:
    """Measures, groups, searches, factorizes.

    Attributes:
        name: ``hmc``; the variants are settings.
        trains: False: recovery comes after the decision.
        limits: MACs, parameters, and latency where there is a clock.
    """

    name = "hmc"
    trains = False
    limits = COUNTS | {"latency"}

    def __init__(self, settings: HmcSettings | None = None) -> None:
        self.settings = settings or HmcSettings()

    def smallest(self, view: ModelView) -> Cost:
        """Give the smallest cost on the menu, per quantity, without any measurement."""
        units = self._units(view)
        # Which channels stay makes no difference to what they cost, so any cheap criterion will do.
        cuts = cuts_of(units, importances(units, view, "l2", {}), view.round_to)
        pricer = Pricer(view.model, view.graph)
        weights = WeightMath(view.model, view.graph, {})
        rule = unmeasured_rule(self.settings.ranks, weights)
        menu = menu_of(units, cuts, pricer, self.settings.offered, view.round_to, rule)
        menu = replace(menu, branches=self._branches(view, timed="latency" in view.limited))
        return menu.smallest(self.settings.variant)

    def plan(self, view: ModelView, budget: Budget) -> Proposal:
        """Decide by sensitivity, in one process.

        Raises:
            BudgetError: Nothing on the menu meets the budget.
        """
        return self._plan(view, budget, Processes())

    def plan_together(self, view: ModelView, budget: Budget) -> Proposal:
        """Decide in all processes at once: each measures its share of the candidates.

        Raises:
            BudgetError: Nothing on the menu meets the budget; in every process.
        """
        processes = Processes.here()
        own = self._plan(view, budget, processes)
        # Factors may differ in their last bits between processes; those of one hold for all.
        return processes.from_first(lambda: own)

    def _plan(self, view: ModelView, budget: Budget, processes: Processes) -> Proposal:
        settings = self.settings
        units = self._units(view)
        weights = self._statistics(view)
        scores = importances(units, view, settings.criterion, weights.covariances)
        pricer = Pricer(view.model, view.graph, view.clock if budget.latency else None)
        cuts = cuts_of(units, scores, view.round_to)
        rule = rank_rule(settings.ranks, weights)
        menu = menu_of(units, cuts, pricer, settings.offered, view.round_to, rule)
        menu = replace(menu, branches=self._branches(view, timed=budget.latency is not None))
        sensitivities = self._sensitivities(view, scores, weights, processes)
        recipe = f"statistics_images={settings.statistics_images} {weights.recipe}"
        whole = WholeHarm(view, weights, settings.images, recipe)
        # Every process would tell other times, and then find something else.
        drops = processes.from_first(lambda: drop_harms(menu.branches, cost_by(pricer), whole))
        sensitivities = replace(sensitivities, drop_harms=drops)
        branches = menu.branches
        menu = replace(menu, branches=tuple(b for b in branches if isfinite(drops[b.name])))
        solver = Solver(menu, sensitivities, budget.limits(view.graph.cost), self._rule)
        weighing = Weighing(whole, settings.fractions, settings.rounds)
        measured, solution, timing = processes.from_first(
            lambda: self._solved(view, budget, solver, weights, weighing)
        )
        configuration = menu.configuration(solution.items, solution.choice)
        decisions, values = weights.realise(configuration)
        return Proposal(
            plan=Plan(decisions),
            values=values,
            predicted=processes.from_first(lambda: pricer.price(configuration)),  # times, too
            labels=layer_labels(view.graph, units, solution.groups)
            | dropped_labels(configuration.dropped),
            sensitivities=sensitivities.by_layer(units),
            evidence={
                "variant": settings.variant,
                "criterion": settings.criterion,
                "ranks": settings.ranks,
                "rule": settings.rule,
                "groups": settings.groups,
                "estimator": settings.estimator,
                "dropped": {b.name: list(b.layers) for b in configuration.dropped},
                "branches": processes.from_first(
                    lambda: branch_rows(branches, drops, pricer, configuration)
                ),
                **timing,
                **evidence_of(solution, sensitivities),
                "units": unit_rows(units, measured, solution, sensitivities),
            },
        )

    def _solved(
        self,
        view: ModelView,
        budget: Budget,
        solver: Solver,
        weights: WeightMath,
        weighing: Weighing,
    ) -> tuple[Solution, Solution, dict[str, Any]]:
        """Search as the sensitivities say, and, for a control, with labels dealt out otherwise.

        Returns:
            Both solutions, the same one unless it is a control, and evidence on times.
        """
        settings = self.settings

        def solve(now: Solver) -> Found:
            if settings.weigh == "measured":
                now, measured = weighing.weighed(now)
            else:
                measured = now.solve(settings.fractions, settings.rounds)
            if settings.groups == "measured":
                return measured, measured
            seed = view.seed if settings.groups_seed < 0 else settings.groups_seed
            return measured, now.control(measured, settings.groups, seed)

        def configuration(found: Found) -> Configuration:
            return solver.menu.configuration(found[1].items, found[1].choice)

        found, facts = self._timed(view, budget, solver, weights, solve, configuration)
        if settings.groups != "measured":
            moved = sum(found[1].asked[name] != label for name, label in found[0].labels.items())
            view.say(f"groups={settings.groups}: {moved} units have another label than measured")
            facts = {"dealt_otherwise": moved, **facts}
        measured, taken = (replace(one, harm=solver.harm(one)) for one in found)
        if weighing.tried:
            view.say(weighing.summary(configuration(found)))
            facts = {"weighing": weighing.facts(configuration(found)), **facts}
        return measured, taken, facts

    def _timed(
        self,
        view: ModelView,
        budget: Budget,
        solver: Solver,
        weights: WeightMath,
        solve: Callable[[Solver], Found],
        configuration: Callable[[Found], Configuration],
    ) -> tuple[Found, dict[str, Any]]:
        """Search until the limit on latency, or that nothing costs time, is kept as measured."""
        pricer = solver.menu.pricer
        if budget.latency is not None:
            plain = pricer.price(Configuration()).nanoseconds
            search = TimedSearch[Found].of(view, budget.latency, plain)
            found, facts = search.run(
                lambda limit: solve(
                    replace(solver, limits={**solver.limits, "nanoseconds": limit})
                ),
                lambda one: pricer.price(configuration(one)).nanoseconds,
                lambda one: weights.built(configuration(one)),
            )
            return found, {"latency": facts}
        guard = NeverSlower[Found].of(view)
        if guard is None:
            return solve(solver), {}
        found, facts = guard.run(
            solver.menu,
            lambda menu: solve(replace(solver, menu=menu)),
            configuration,
            weights.built,
        )
        gone = len(facts.get("left_out", ()))
        if gone:
            view.say(
                f"{gone} decisions that cost time here are left out (--allow-slower takes them)"
            )
        return found, {"never_slower": facts}

    def _sensitivities(
        self,
        view: ModelView,
        scores: Mapping[str, Tensor],
        weights: WeightMath,
        processes: Processes,
    ) -> Sensitivities:
        settings = self.settings
        statistics = f"statistics_images={settings.statistics_images}"
        rule = rank_rule(settings.ranks, weights)
        pricer = Pricer(view.model, view.graph)  # what is tried needs no times
        probing = Probing(view, scores, settings.offered, weights, pricer, statistics, rule)
        name, images = settings.estimator, settings.images
        estimator = estimator_of(name, view, images, processes)
        others = compared(name, view, images, processes) if settings.compare else {}
        units = self._units(view)
        sensitivities = probing.measure(units, settings.fractions, estimator, others)
        view.say(sensitivities.summary)
        return sensitivities

    def _branches(self, view: ModelView, *, timed: bool) -> tuple[Branch, ...]:
        wanted = self.settings.depth == "yes" or (self.settings.depth == "auto" and timed)
        return droppable(view) if wanted else ()

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
