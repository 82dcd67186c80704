"""One run, hop by hop."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lissom.artifacts import Artifacts, save
from lissom.extension import Method, ModelView, Proposal
from lissom.graph.capture import capture
from lissom.graph.layers import ModelGraph
from lissom.pipeline.apply import applied, check_counts, packed_file
from lissom.pipeline.checks import check_data, check_finite, check_teacher
from lissom.pipeline.feasibility import Feasibility, feasibility, stage_budgets
from lissom.pipeline.reporting import Run, Side, Stage, report_of
from lissom.pipeline.settings import Settings
from lissom.pipeline.training import Training
from lissom.pipeline.workspace import StageFolder, Workspace
from lissom.plan.budget import Budget
from lissom.plan.plan import Plan
from lissom.progress import speaks
from lissom.report.report import Report
from lissom.sensitivity.cache import fingerprint
from lissom.task import Data, Task
from lissom.train.evaluate import evaluate, watched
from lissom.train.log import TrainingLog
from lissom.train.machine import choose_device
from lissom.train.processes import Processes, join
from lissom.train.seeding import own_randomness, seed_all


@dataclass(frozen=True, slots=True)
class Result:
    """What a run gives.

    Attributes:
        model: The compressed network, in eval mode on the CPU.
        plan: What was done to the original.
        report: What was measured.
        onnx: Content of model.onnx.
        packed: Content of model.lsm, where the plan quantizes or the budget limits size.
    """

    model: nn.Module
    plan: Plan
    report: Report
    onnx: bytes
    packed: bytes | None = None

    def save(self, out: Path | str, recipe: str | None = None) -> None:
        """Write plan.json, weights.safetensors, report.json, model.onnx (and recipe.yaml).

        If there is a packed file, model.lsm, too.

        Of several processes only the first one writes.

        Raises:
            LissomError: The folder can't be written to; nothing is left half-written.
        """
        if Processes.here().first:
            files = (self.model, self.plan, self.report, recipe, self.onnx, self.packed)
            save(Path(out), Artifacts(*files))


@dataclass(frozen=True, slots=True)
class Preview:
    """What a run would do.

    Attributes:
        feasibility: Smallest reachable, now, asked.
        graph: The original network.
        proposal: What the first method decided; None if it learns that in training.
    """

    feasibility: Feasibility
    graph: ModelGraph
    proposal: Proposal | None


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
        inputs = tuple(part[:1].cpu() for part in example_inputs)
        if not speaks():
            settings = replace(settings, say=lambda _line: None, cache=None)
        return cls(copy.deepcopy(model).cpu().eval(), inputs, data, task, settings)

    def preview(self, methods: Sequence[Method], budget: Budget) -> Preview:
        """Say what the first method would do, but build and train nothing.

        A method that trains in order to decide is not asked: what it can reach is all that is said.

        Raises:
            BudgetError: The budget can't be met.
        """
        with own_randomness():
            view = self._view(self.model, self._capture(self.model), self._base)
            table = self._feasible(methods, view, budget)
            check_teacher(self.model, self.settings.teacher, self.task, self.example_inputs)
            if getattr(methods[0], "trains", False):
                return Preview(table, view.graph, None)
            target = stage_budgets(budget, view.graph.cost, methods)[0]
            with self._phase(f"decide ({methods[0].name})"):
                return Preview(table, view.graph, methods[0].plan(view, target))

    def run(self, methods: Sequence[Method], budget: Budget, workspace: Workspace) -> Result:
        """Take every hop and report.

        Several processes all do the same, but for what only the first one does: it decides where
        that takes no training, measures, and writes. All give the same result.

        Raises:
            BudgetError: The budget can't be met; said before any work.
        """
        with own_randomness():
            view = self._view(self.model, self._capture(self.model), self._base)
            table = self._feasible(methods, view, budget)
            check_teacher(self.model, self.settings.teacher, self.task, self.example_inputs)
            processes = join(self.settings.recover)
            for network in filter(None, (self.model, self.settings.teacher)):
                processes.equalize(network)
            identity = self._identity(methods, budget)
            processes.from_first(lambda: workspace.check(identity))
            with workspace.claimed(identity) if processes.first else nullcontext():
                return self._carry_out(methods, budget, view, table, workspace)

    def _carry_out(
        self,
        methods: Sequence[Method],
        budget: Budget,
        view: ModelView,
        table: Feasibility,
        workspace: Workspace,
    ) -> Result:
        graph = view.graph
        before = self._evaluate("evaluate original", self.model)
        stages: list[Stage] = []
        processes = Processes.here()
        settings, teacher = self.settings, self.settings.teacher or self.model
        training = Training(self.data, self.task, settings.recover, teacher, settings.logs)
        network, plan = self.model, self._base
        for index, target in enumerate(stage_budgets(budget, graph.cost, methods)):
            method, folder = methods[index], workspace.stage(index)
            if processes.world == 1 or getattr(method, "trains", False):
                view = replace(view, train=training.of_method(method.name, network, folder))
            view = replace(view, score=training.score, recalibrate=training.recalibrate)
            proposal = self._decide(method, view, target, folder)
            network, plan = applied(network, proposal), plan + proposal.plan
            view = self._view(network, self._capture(network), plan)
            check_counts(method, target, graph, view.graph)
            raw = self._evaluate("evaluate before recovery", network)
            with self._phase("recover"):
                history = training.recover(network, plan, proposal, folder)
                processes.equalize(network)
            stages.append(Stage(method.name, proposal, raw, history))
        limit = budget.bytes_limit(graph.cost)
        with self._phase("pack"):
            packed = processes.from_first(lambda: packed_file(network, plan, limit))
        after = self._evaluate("evaluate compressed", network)
        sides = Side(self.model, graph, before), Side(network, view.graph, after)
        run = Run(self.task, sides, tuple(stages), plan, table, self._facts(methods), packed)
        report, onnx = processes.from_first(
            lambda: report_of(run, self.example_inputs, self.settings.latency, self.seconds)
        )
        content = None if packed is None else packed.content
        return Result(network.eval(), plan, report, onnx, content)

    def _capture(self, model: nn.Module) -> ModelGraph:
        with self._phase("capture"):
            return capture(model, self.example_inputs)

    @property
    def _base(self) -> Plan:
        return self.settings.base or Plan.starting_from(self.model)

    def _view(self, model: nn.Module, graph: ModelGraph, base: Plan) -> ModelView:
        return ModelView(
            model=model,
            graph=graph,
            example_inputs=self.example_inputs,
            original=self.model,
            task=self.task,
            data=self.data,
            ignore=frozenset(self.settings.ignore),
            round_to=self.settings.round_to,
            cache=self.settings.cache,
            seed=self.settings.recover.seed,
            say=self.settings.say,
            base=base,
        )

    def _feasible(self, methods: Sequence[Method], view: ModelView, budget: Budget) -> Feasibility:
        with self._phase("feasibility"):
            table = feasibility(methods, budget, view.graph.cost, methods[0].smallest(view))
        self.settings.say(table.table)
        table.check()
        return table

    def _decide(
        self, method: Method, view: ModelView, budget: Budget, stage: StageFolder
    ) -> Proposal:
        processes = Processes.here()
        known = processes.from_first(stage.load)
        if known is not None:
            self.settings.say(
                f"{method.name}: decided before, {len(known.plan.decisions)} decisions"
            )
            return known
        with self._phase(f"decide ({method.name})"):
            # Training takes all processes, and some methods share their measurements out.
            together = getattr(method, "plan_together", None) if processes.world > 1 else None
            if getattr(method, "trains", False) or together is not None:
                own = (together or method.plan)(view, budget)
                proposal = processes.from_first(lambda: own)
            else:
                proposal = processes.from_first(lambda: method.plan(view, budget))
        if processes.first:
            stage.save(proposal)
        return proposal

    def _evaluate(self, phase: str, model: nn.Module) -> float:
        with self._phase(phase):
            device = self.settings.recover.device
            value = evaluate(model, watched(phase, self.data.test), self.task, device=device)
        self.settings.say(f"{phase}: {self.task.metric.name} {value:.4f}")
        return value

    def _facts(self, methods: Sequence[Method]) -> dict[str, Any]:
        """Give the settings that change the meaning of the report."""
        stages = [getattr(method, "settings", None) for method in methods]
        return {
            "stages": [asdict(stage) if stage is not None else {} for stage in stages],
            "round_to": self.settings.round_to,
            "ignore": list(self.settings.ignore),
            "recover": asdict(self.settings.recover),
        }

    def _identity(self, methods: Sequence[Method], budget: Budget) -> dict[str, Any]:
        """Give everything that a run must share with the one that it continues."""
        teacher = self.settings.teacher
        return {
            "methods": [method.name for method in methods],
            "budget": {key: limit["text"] for key, limit in budget.to_dict().items()},
            "network": fingerprint(self.model, {}),
            "teacher": None if teacher is None else fingerprint(teacher, {}),
            **self._facts(methods),
        }

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        """Time a phase, and let its random numbers not depend on what ran before it."""
        seed_all(self.settings.recover.seed)
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
