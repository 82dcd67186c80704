"""What the steps of a run rest on, for its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, count
from typing import Any

from lissom.extension import Proposal
from lissom.plan.plan import Plan
from lissom.report.measured import StepRow
from lissom.report.report import RESERVED
from lissom.train.history import History


@dataclass(frozen=True, slots=True)
class Stage:
    """What one step did: a stage, or an iteration of one.

    Attributes:
        row: What it was asked for and what came of it.
        proposal: What was decided.
        plan: All decisions up to there.
        history: The recovery.
    """

    row: StepRow
    proposal: Proposal
    plan: Plan
    history: History


def evidence_of(stages: Sequence[Stage], notes: Sequence[str]) -> dict[str, Any]:
    """Give what the decisions rest on besides the layers' rows, and how recovery went.

    Args:
        stages: In order.
        notes: On the network.
    """
    first = stages[0].proposal
    evidence: dict[str, Any] = {
        "method": {} if _has_section(first) else dict(first.evidence),
        "recovery": [asdict(stage.history) for stage in stages],
        "notes": list(notes),
    }
    if any(stage.proposal.training is not None for stage in stages):
        evidence["training"] = [stage.proposal.training for stage in stages]
    if len(stages) > 1:
        evidence["steps"] = [_grounds(stage.proposal) for stage in stages]
    return evidence


def _grounds(proposal: Proposal) -> dict[str, Any] | None:
    """Give what a step decided on, unless that is a section of its own."""
    if _has_section(proposal):
        return None
    return {"method": proposal.evidence, "sensitivities": proposal.sensitivities}


def _has_section(proposal: Proposal) -> bool:
    """Tell whether a step learned, or settled every value: recovery adds nothing to it."""
    return proposal.training is not None or proposal.settled


def sections_of(stages: Sequence[Stage]) -> dict[str, Mapping[str, Any]]:
    """Give the evidence of each stage that learned or settled a section under a name that is free.

    Args:
        stages: In order.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for stage in stages:
        if not _has_section(stage.proposal):
            continue
        names = chain((stage.row.method,), (f"{stage.row.method}_{number}" for number in count(2)))
        free = next(name for name in names if name not in RESERVED and name not in found)
        found[free] = dict(stage.proposal.evidence)
    return found
