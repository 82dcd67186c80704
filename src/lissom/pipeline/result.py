"""What a run gives, and what a preview of one gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from lissom.artifacts import Artifacts, save
from lissom.extension import Proposal
from lissom.graph.layers import ModelGraph
from lissom.pipeline.feasibility import Feasibility
from lissom.plan.plan import Plan
from lissom.report.measured import StepRow
from lissom.report.report import Report
from lissom.train.processes import Processes


@dataclass(frozen=True, slots=True)
class Result:
    """What a run gives.

    Attributes:
        model: The compressed network, in eval mode on the CPU.
        plan: What was done to the original.
        report: What was measured.
        onnx: Content of model.onnx.
        packed: Content of model.lsm, where the plan quantizes or the budget limits size.
        int8: Content of model-int8.onnx, where the plan rounds activations.
    """

    model: nn.Module
    plan: Plan
    report: Report
    onnx: bytes
    packed: bytes | None = None
    int8: bytes | None = None

    def save(self, out: Path | str, recipe: str | None = None) -> None:
        """Write plan.json, weights.safetensors, report.json, model.onnx (and recipe.yaml).

        If there are a packed file and one in int8, model.lsm and model-int8.onnx, too.

        Of several processes only the first one writes.

        Raises:
            LissomError: The folder can't be written to; nothing is left half-written.
        """
        if Processes.here().first:
            files = (self.model, self.plan, self.report, recipe, self.onnx, self.packed)
            save(Path(out), Artifacts(*files, int8=self.int8))


@dataclass(frozen=True, slots=True)
class Preview:
    """What a run would do.

    Attributes:
        feasibility: Smallest reachable, now, asked.
        graph: The original network.
        proposal: What the first step decided; None if its method learns that in training.
        steps: What each step would be asked for, if those before it come out as asked.
    """

    feasibility: Feasibility
    graph: ModelGraph
    proposal: Proposal | None
    steps: tuple[StepRow, ...] = ()
