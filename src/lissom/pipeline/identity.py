"""What a run is, so that only the same one is continued."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from torch import nn

from lissom.pipeline.iterations import Iterated
from lissom.pipeline.settings import Settings
from lissom.plan.budget import Budget
from lissom.recipe.iterations import brief_epochs
from lissom.sensitivity.cache import fingerprint


def facts_of(stages: Sequence[Iterated], settings: Settings) -> dict[str, Any]:
    """Give the settings that change the meaning of the report, JSON-ready.

    Args:
        stages: As asked for.
        settings: Of the run.
    """
    return {
        "stages": [_stage_facts(stage, settings.recover.epochs) for stage in stages],
        "round_to": settings.round_to,
        "ignore": list(settings.ignore),
        "recover": asdict(settings.recover),
        "latency": asdict(settings.latency),
        "allow_slower": settings.allow_slower,
    }


def identity_of(
    model: nn.Module, stages: Sequence[Iterated], budget: Budget, settings: Settings
) -> dict[str, Any]:
    """Give everything that a run must share with the one that it continues, JSON-ready.

    Args:
        model: The original network.
        stages: As asked for.
        budget: Of the whole run.
        settings: Of the run.
    """
    teacher = settings.teacher
    return {
        "methods": [stage.method.name for stage in stages],
        "budget": {key: limit["text"] for key, limit in budget.to_dict().items()},
        "network": fingerprint(model, {}),
        "teacher": None if teacher is None else fingerprint(teacher, {}),
        **facts_of(stages, settings),
    }


def _stage_facts(stage: Iterated, epochs: int) -> dict[str, Any]:
    settings = getattr(stage.method, "settings", None)
    facts = {} if settings is None else asdict(settings)
    if stage.iterations > 1:
        facts["iterations"] = stage.iterations
        facts["iteration_epochs"] = brief_epochs(stage.iteration_epochs, epochs)
    return facts
