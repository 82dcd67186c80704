"""What a stage of a run leaves behind: what it decided, its trainings, and how it ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from lissom.errors import LissomError
from lissom.export.files import write_files
from lissom.extension import Proposal
from lissom.plan.cost import Cost
from lissom.plan.plan import Plan
from lissom.train.history import History

_PLAN, _VALUES, _FACTS = "plan.json", "values.safetensors", "facts.json"
_RECOVERED, _OUTCOME = "recovered.safetensors", "outcome.json"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a stage ended.

    Attributes:
        metric_raw: Test metric before recovery.
        metric: After it.
        history: The recovery.
        values: State of the recovered network.
    """

    metric_raw: float
    metric: float
    history: History
    values: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class StageFolder:
    """What one stage decided, the state of its training, and how it ended.

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
            "above": proposal.above,
        }
        write_files(
            {
                self.folder / _PLAN: proposal.plan.to_json().encode(),
                self.folder / _VALUES: _content(proposal.values),
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
            settled, above = bool(facts.get("settled")), str(facts.get("above", ""))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError, LissomError) as error:
            raise LissomError(
                f"{self.folder}: what was decided can't be read ({error}); "
                "delete this folder to decide again"
            ) from None
        return Proposal(plan, values, predicted, labels, curves, evidence, training, settled, above)

    def finish(self, outcome: Outcome) -> None:
        """Keep how the stage ended, so that nothing of it is done again."""
        facts = {
            "metric_raw": outcome.metric_raw,
            "metric": outcome.metric,
            "history": asdict(outcome.history),
        }
        write_files(
            {
                self.folder / _RECOVERED: _content(outcome.values),
                self.folder / _OUTCOME: json.dumps(facts).encode(),
            }
        )

    def outcome(self) -> Outcome | None:
        """Give how the stage ended before the run was interrupted; None where it did not.

        Raises:
            LissomError: The files are damaged.
        """
        if not (self.folder / _OUTCOME).exists():
            return None
        try:
            facts = json.loads((self.folder / _OUTCOME).read_text())
            values = load_file(self.folder / _RECOVERED)
            history = TypeAdapter(History).validate_python(facts["history"])
            return Outcome(float(facts["metric_raw"]), float(facts["metric"]), history, values)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise LissomError(
                f"{self.folder}: how it ended can't be read ({error}); delete its "
                f"{_OUTCOME} to recover again"
            ) from None


def _content(values: Mapping[str, Tensor]) -> bytes:
    # safetensors refuses views that share storage; a copy has its own.
    return save({name: t.detach().cpu().contiguous().clone() for name, t in values.items()})
