"""Run by torchrun, or imported: HMC decides in all processes; each notes what it came to."""

import json
import os
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from lissom.errors import ModelError
from lissom.extension import ModelView
from lissom.methods.hmc import Hmc, HmcSettings
from lissom.plan.budget import Budget
from lissom.sensitivity.candidate import Candidate
from lissom.sensitivity.measure import Measured
from lissom.task import Classification
from lissom.train.processes import Processes

sys.path.insert(0, str(Path(__file__).parent.parent))

from method_samples import batches_of, small_view

SETTINGS = HmcSettings(images=32, statistics_images=32, fractions=(0.25, 0.75))


class Counting(Classification):
    """Counts the distances that are measured here."""

    measured = 0

    def distance(self, outputs: Any, reference: Any, temperature: float = 1.0) -> torch.Tensor:
        """Count, and measure."""
        self.measured += 1
        return super().distance(outputs, reference, temperature)


def decided(cache: Path | None) -> dict[str, Any]:
    """Halve a small network, together with all processes there are."""
    task = Counting()
    view = replace(small_view(cache=cache), task=task)
    proposal = Hmc(SETTINGS).plan_together(view, Budget.parse("macs=0.5"))
    return {
        "plan": proposal.plan.to_json(),
        "values": {name: float(value.double().sum()) for name, value in proposal.values.items()},
        "curves": {name: dict(curves) for name, curves in proposal.sensitivities.items()},
        "forwards": proposal.evidence["forwards"],
        "measured": task.measured,
    }


def refused(view: ModelView) -> str:
    """Measure two candidates, of which the first process's is broken."""
    broken = Candidate("u", "prune", 0.5, {"a.weight": view.model.a.weight * torch.nan})
    sound = Candidate("v", "prune", 0.5, {"a.weight": view.model.a.weight * 0.5})
    together = Measured(view.model, batches_of(3, 8, 8), view.task, 16, processes=Processes.here())
    try:
        together.harms([broken, sound])
    except ModelError as error:
        return str(error)
    return "nothing was refused"


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=120))
    folder = Path(sys.argv[1])
    notes = {"first": decided(folder / "cache"), "again": decided(folder / "cache")}
    notes["error"] = refused(small_view())
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(notes))
    dist.destroy_process_group()
