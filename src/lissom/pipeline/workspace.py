"""What a run leaves behind while it works, so that it can be resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from lissom.errors import LissomError, RecipeError
from lissom.export.files import write_files
from lissom.extension import Proposal
from lissom.plan.cost import Cost
from lissom.plan.plan import Plan

_PLAN, _VALUES, _FACTS, _RUN = "plan.json", "values.safetensors", "facts.json", "run.json"


@dataclass(frozen=True, slots=True)
class Workspace:
    """A folder for a run's intermediate results.

    Attributes:
        folder: Made when it is needed.
    """

    folder: Path

    def stage(self, index: int) -> StageFolder:
        """Give the folder of one stage."""
        return StageFolder(self.folder / f"stage{index}")

    def claim(self, run: Mapping[str, Any]) -> None:
        """Note what the run is, or check that it is the one that was noted.

        Args:
            run: What makes the run, JSON-ready, flat.

        Raises:
            RecipeError: Another run was noted: names the first setting that differs.
        """
        path = self.folder / _RUN
        wanted = json.loads(json.dumps(dict(run)))
        if not path.exists():
            write_files({path: json.dumps(wanted, indent=1).encode()})
            return
        noted = json.loads(path.read_text())
        for key in sorted(noted.keys() | wanted.keys()):
            if noted.get(key) != wanted.get(key):
                raise RecipeError(
                    f"{self.folder}: was started with {key} = {noted.get(key)!r}, now it is "
                    f"{wanted.get(key)!r}; resume with the same settings, or choose another --out"
                )


@dataclass(frozen=True, slots=True)
class StageFolder:
    """What one stage decided, and the state of its training.

    Attributes:
        folder: Made when it is needed.
    """

    folder: Path

    @property
    def training(self) -> Path:
        """Folder of the training state."""
        return self.folder / "training"

    def save(self, proposal: Proposal) -> None:
        """Keep what was decided."""
        facts = {
            "predicted": [proposal.predicted.params, proposal.predicted.macs],
            "labels": dict(proposal.labels),
            "sensitivities": {k: dict(v) for k, v in proposal.sensitivities.items()},
            "evidence": dict(proposal.evidence),
        }
        values = {
            name: t.detach().cpu().contiguous().clone() for name, t in proposal.values.items()
        }
        write_files(
            {
                self.folder / _PLAN: proposal.plan.to_json().encode(),
                self.folder / _VALUES: save(values),
                self.folder / _FACTS: json.dumps(facts).encode(),
            }
        )

    def load(self) -> Proposal | None:
        """Give what was decided before the run was interrupted, or None.

        Raises:
            LissomError: The files are damaged.
        """
        if not (self.folder / _FACTS).exists():
            return None
        try:
            facts = json.loads((self.folder / _FACTS).read_text())
            plan = Plan.from_json((self.folder / _PLAN).read_text())
            values = load_file(self.folder / _VALUES)
        except (OSError, ValueError, SafetensorError) as error:
            raise LissomError(
                f"{self.folder}: what was decided can't be read ({error}); "
                "delete this folder to decide again"
            ) from None
        params, macs = facts["predicted"]
        curves = {
            layer: {family: tuple(map(tuple, points)) for family, points in families.items()}
            for layer, families in facts["sensitivities"].items()
        }
        predicted = Cost(params, macs, 32 * params)
        return Proposal(plan, values, predicted, facts["labels"], curves, facts["evidence"])
