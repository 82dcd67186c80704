"""One run, hop by hop."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from lissom.extension import Method, ModelView, Proposal
from lissom.graph.capture import capture
from lissom.graph.layers import ModelGraph
from lissom.pipeline.apply import applied, check_counts, packed_file
from lissom.pipeline.checks import check_data, check_finite, check_teacher, private_copy
from lissom.pipeline.evidence import Stage
from lissom.pipeline.feasibility import Feasibility, feasibility, reach
from lissom.pipeline.finishing import check_time
from lissom.pipeline.identity import facts_of, identity_of
from lissom.pipeline.int8_file import int8_file
from lissom.pipeline.iterations import Iterated, Step, check_first, foreseen, iterated, steps_of
from lissom.pipeline.reporting import Run, Side, report_of
from lissom.pipeline.result import Preview, Result
from lissom.pipeline.settings import Settings
from lissom.pipeline.stage_folder import Outcome, StageFolder
from lissom.pipeline.timing import clock_of
from lissom.pipeline.training import Training
from lissom.pipeline.workspace import Workspace
from lissom.plan.budget import Budget
from lissom.plan.plan import Plan
from lissom.progress import speaks
from lissom.task import Data, Task
from lissom.train.evaluate import evaluate, watched
from lissom.train.log import TrainingLog
from lissom.train.machine import choose_device
from lissom.train.processes import Processes, join
from lissom.train.seeding import own_randomness, seed_all


@dataclass(frozen=True, slots=True)
class Job:
    """One run, hop by hop.

    Attributes:
        model: A private copy of the original, in eval mode on the CPU.
        example_inputs: Inputs of batch 1.
        data: The four sets.
        task: Loss, metric, inputs.
        settings: Everything else.
        seconds: Wall time per phase, filled as they end.
    """

    model: nn.Module
    example_inputs: tuple[Tensor, ...]
    data: Data
    task: Task
    settings: Settings
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def start(
        cls,
        model: nn.Module,
        example_inputs: tuple[Tensor, ...],
        data: Data,
        task: Task,
        settings: Settings,
    ) -> Job:
        """Check what can be checked without running the network, and copy it.

        Raises:
            ModelError: A value is NaN or infinite.
            DataError: A set can be read only once.
            RecipeError: The device is missing, or nothing can be logged.
        """
        check_finite(model)
        check_data(data)
        choose_device(settings.recover.device)
        TrainingLog(settings.recover.logs, settings.logs)
        inputs = tuple(part[:1].cpu().clone() for part in example_inputs)
        if not speaks():
            settings = replace(settings, say=lambda _line: None, cache=None)
        return cls(private_copy(model), inputs, data, task, settings)

    def preview(self, asked: Sequence[Method | Iterated], budget: Budget) -> Preview:
        """Say what the first step would do, but build and train nothing.

        A method that trains in order to decide is not asked: what it can reach is all that is said.

        Raises:
            BudgetError: The budget can't be met.
        """
        with own_randomness():
            stages = tuple(map(iterated, asked))
            view = self._view(stages)
            table, steps = self._feasible(stages, view, budget)
            check_teacher(self.model, self.settings.teacher, self.task, self.example_inputs)
            check_time(view, [stage.method for stage in stages], budget.latency)
            first, rows = steps[0], foreseen(steps, view.graph.cost)
            if getattr(first.method, "trains", False):
                return Preview(table, view.graph, None, rows)
            with self._phase(f"decide ({first.method.name})"):
                proposal = first.proposed(first.facing(steps, view))
            return Preview(table, view.graph, proposal, rows)

    def run(
        self, asked: Sequence[Method | Iterated], budget: Budget, workspace: Workspace
    ) -> Result:
        """Take every hop and report.

        Several processes all do the same, but for what only the first one does: it decides where
        that takes no training, measures, and writes. All give the same result.

        Raises:
            BudgetError: The budget can't be met; said before any work.
        """
        stages = tuple(map(iterated, asked))
        settings = self.settings.taught_for([stage.method for stage in stages])
        return replace(self, settings=settings)._run(stages, budget, workspace)

    def _run(self, stages: tuple[Iterated, ...], budget: Budget, workspace: Workspace) -> Result:
        with own_randomness():
            view = self._view(stages)
            table, steps = self._feasible(stages, view, budget)
            check_teacher(self.model, self.settings.teacher, self.task, self.example_inputs)
            processes = join(self.settings.recover)
            for network in filter(None, (self.model, self.settings.teacher)):
                processes.equalize(network)
            identity = identity_of(self.model, stages, budget, self.settings)
            processes.from_first(lambda: workspace.check(identity))
            with workspace.claimed(identity) if processes.first else nullcontext():
                if processes.from_first(lambda: not workspace.begun):
                    check_time(view, [stage.method for stage in stages], budget.latency)
                sides, done = self._take_all(steps, view, workspace)
                limit = budget.bytes_limit(view.graph.cost)
                facts = facts_of(stages, self.settings)
                return self._report(Run(self.task, sides, done, table, facts), limit)

    def _take_all(
        self, steps: Sequence[Step], view: ModelView, workspace: Workspace
    ) -> tuple[tuple[Side, Side], tuple[Stage, ...]]:
        first = side = Side(self.model, view.graph, self._evaluate("evaluate original", self.model))
        plan, done = self._base, list[Stage]()
        for step in steps:
            number = step.iteration if step.iterations > 1 else 0
            folder = workspace.stage(step.stage, number)
            now = replace(view, model=side.model, graph=side.graph, base=plan)
            side, stage = self._take(step, step.facing(steps, now), folder)
            plan = stage.plan
            done.append(stage)
        return (first, side), tuple(done)

    def _take(self, step: Step, view: ModelView, folder: StageFolder) -> tuple[Side, Stage]:
        """Decide, apply and recover; nothing that was finished before is done again."""
        asked = step.budget(view.graph.cost)
        training = self._training(step.epochs)
        if Processes.here().world == 1 or getattr(step.method, "trains", False):
            view = replace(view, train=training.of_method(step.method.name, view.model, folder))
        view = replace(view, score=training.score, recalibrate=training.recalibrate)
        proposal = self._decide(step, view, asked, folder)
        network, plan = applied(view.model, proposal), (view.base or self._base) + proposal.plan
        graph = self._capture(network)
        if not proposal.above:
            check_counts(step.method, asked, view.graph, graph)
        outcome = self._recovered(network, plan, proposal, folder, training)
        row = replace(
            step.row(asked),
            params=graph.cost.params,
            macs=graph.cost.macs,
            metric_raw=outcome.metric_raw,
            metric=outcome.metric,
        )
        return Side(network, graph, outcome.metric), Stage(row, proposal, plan, outcome.history)

    def _recovered(
        self,
        network: nn.Module,
        plan: Plan,
        proposal: Proposal,
        folder: StageFolder,
        training: Training,
    ) -> Outcome:
        processes = Processes.here()
        known = processes.from_first(folder.outcome)
        if known is not None:
            network.load_state_dict(known.values)
            return known
        raw = self._evaluate("evaluate before recovery", network)
        with self._phase("recover"):
            history = training.recover(network, plan, proposal, folder)
            processes.equalize(network)
        network.eval()
        metric = raw if proposal.settled else self._evaluate("evaluate compressed", network)
        outcome = Outcome(raw, metric, history, network.state_dict())
        if processes.first:
            folder.finish(outcome)
        return outcome

    def _report(self, run: Run, limit: int | None) -> Result:
        """Pack into so many bytes at most, any if None, and measure what is left to measure."""
        processes, network = Processes.here(), run.sides[1].model
        with self._phase("pack"):
            packed = processes.from_first(lambda: packed_file(network, run.plan, limit))
        rounded = processes.from_first(
            lambda: int8_file(network, run.plan, self.example_inputs, self.data, self.task)
        )
        complete = replace(run, packed=packed, int8=rounded)
        clock = clock_of(self.settings, self.example_inputs)
        report, onnx = processes.from_first(
            lambda: report_of(complete, self.example_inputs, clock, self.seconds)
        )
        content = None if packed is None else packed.content
        int8 = None if rounded is None else rounded.content
        return Result(network.eval(), run.plan, report, onnx, content, int8)

    def _training(self, epochs: int) -> Training:
        settings, teacher = self.settings, self.settings.teacher or self.model
        recover = replace(settings.recover, epochs=epochs)
        return Training(self.data, self.task, recover, teacher, settings.logs)

    def _capture(self, model: nn.Module) -> ModelGraph:
        with self._phase("capture"):
            return capture(model, self.example_inputs)

    @property
    def _base(self) -> Plan:
        return self.settings.base or Plan.starting_from(self.model)

    def _view(self, stages: Sequence[Iterated]) -> ModelView:
        return ModelView(
            model=self.model,
            graph=self._capture(self.model),
            example_inputs=self.example_inputs,
            original=self.model,
            task=self.task,
            data=self.data,
            ignore=frozenset(self.settings.ignore),
            round_to=self.settings.round_to,
            cache=self.settings.cache,
            seed=self.settings.recover.seed,
            say=self.settings.say,
            base=self._base,
            clock=clock_of(self.settings, self.example_inputs, [one.method for one in stages]),
            allow_slower=self.settings.allow_slower,
            device=self.settings.recover.device,
        )

    def _feasible(
        self, stages: Sequence[Iterated], view: ModelView, budget: Budget
    ) -> tuple[Feasibility, tuple[Step, ...]]:
        methods, now = [stage.method for stage in stages], view.graph.cost
        with self._phase("feasibility"):
            table = feasibility(methods, budget, now, reach(methods, budget, view))
        self.settings.say(table.table)
        table.check()
        steps = steps_of(stages, budget, now, self.settings.recover.epochs)
        check_first(steps, view, table.smallest)
        return table, steps

    def _decide(self, step: Step, view: ModelView, asked: Budget, folder: StageFolder) -> Proposal:
        method, processes = step.method, Processes.here()
        known = processes.from_first(folder.load)
        if known is not None:
            self.settings.say(
                f"{step.title}: decided before, {len(known.plan.decisions)} decisions"
            )
            return known
        limits = asked.to_dict()
        self.settings.say(f"{step.title}: at most {asked}" if limits else step.title)
        with self._phase(f"decide ({method.name})"):
            if limits and (step.iteration > 1 or step.stage > 0):  # the first has been checked
                step.check(view.graph.cost, method.smallest(view))
            # Training takes all processes, and some methods share their measurements out.
            together = getattr(method, "plan_together", None) if processes.world > 1 else None
            if getattr(method, "trains", False) or together is not None:
                own = (together or method.plan)(view, asked)
                proposal = processes.from_first(lambda: own)
            else:
                proposal = processes.from_first(lambda: method.plan(view, asked))
        if processes.first:
            folder.save(proposal)
        return proposal

    def _evaluate(self, phase: str, model: nn.Module) -> float:
        with self._phase(phase):
            device = self.settings.recover.device
            value = evaluate(model, watched(phase, self.data.test), self.task, device=device)
        self.settings.say(f"{phase}: {self.task.metric.name} {value:.4f}")
        return value

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        """Time a phase, and let its random numbers not depend on what ran before it."""
        seed_all(self.settings.recover.seed)
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
