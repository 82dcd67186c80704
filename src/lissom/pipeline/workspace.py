"""What a run leaves behind while it works, so that it can be resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, field
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
        folder: Made when work starts.
        identity: What is asked of the run, JSON-ready.
    """

    folder: Path
    identity: Mapping[str, Any] = field(default_factory=dict)

    def stage(self, index: int) -> StageFolder:
        """Give the folder of one stage."""
        return StageFolder(self.folder / f"stage{index}")

    def check(self, facts: Mapping[str, Any] | None = None) -> None:
        """Refuse to continue a run of which something else was asked.

        Args:
            facts: What else the run depends on, JSON-ready.

        Raises:
            RecipeError: Names the first setting that differs.
        """
        noted = self._noted()
        if noted is None:
            return
        for key, value in sorted(self._settings(facts or {}).items()):
            if noted.get(key) != value:
                raise RecipeError(
                    f"{self.folder}: was started with {key} = {noted.get(key)!r}, now it is "
                    f"{value!r}; resume with the same settings, or choose another folder"
                )

    @contextmanager
    def claimed(self, facts: Mapping[str, Any]) -> Iterator[None]:
        """Note what the run is while it works; an error before any result leaves nothing behind.

        Args:
            facts: What the run depends on besides ``identity``, JSON-ready.

        Raises:
            RecipeError: As ``check``.
            LissomError: The folder can't be written to.
        """
        self.check(facts)
        path = self.folder / _RUN
        made = [place for place in (self.folder, *self.folder.parents) if not place.exists()]
        try:
            if not path.exists():
                write_files({path: json.dumps(self._settings(facts), indent=1).encode()})
            yield
        except LissomError:
            if not any(self.folder.glob("stage*")):
                with suppress(OSError):
                    path.unlink(missing_ok=True)
                    for place in made:
                        place.rmdir()
            raise

    def _settings(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        return dict(_flat({**facts, **self.identity}))

    def _noted(self) -> Mapping[str, Any] | None:
        path = self.folder / _RUN
        if not path.exists():
            return None
        try:
            noted: Any = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise LissomError(
                f"{path}: can't be read ({error}); choose another folder, or delete this one to "
                "start anew"
            ) from None
        return noted if isinstance(noted, dict) else {}


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
            "predicted": list(astuple(proposal.predicted)),
            "labels": dict(proposal.labels),
            "sensitivities": {k: dict(v) for k, v in proposal.sensitivities.items()},
            "evidence": dict(proposal.evidence),
            "training": None if proposal.training is None else dict(proposal.training),
            "settled": proposal.settled,
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
            predicted = Cost(*facts["predicted"])
            curves = {
                layer: {family: tuple(map(tuple, points)) for family, points in families.items()}
                for layer, families in facts["sensitivities"].items()
            }
            labels, evidence, training = facts["labels"], facts["evidence"], facts.get("training")
            settled = bool(facts.get("settled"))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError, LissomError) as error:
            raise LissomError(
                f"{self.folder}: what was decided can't be read ({error}); "
                "delete this folder to decide again"
            ) from None
        return Proposal(plan, values, predicted, labels, curves, evidence, training, settled)


def _flat(values: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted places and what stands there, as JSON would give it back."""
    if isinstance(values, Mapping) and values:
        for key, value in values.items():
            yield from _flat(value, f"{place}.{key}" if place else str(key))
    elif isinstance(values, (list, tuple)) and any(isinstance(v, Mapping) for v in values):
        yield from _flat({str(index): value for index, value in enumerate(values)}, place)
    else:
        yield place, json.loads(json.dumps(values))
