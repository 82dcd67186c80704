"""lissom makes trained convolutional networks small and fast, and says exactly what it did."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lissom.artifacts import load
    from lissom.data.load import load_data
    from lissom.data.options import DataOptions
    from lissom.errors import LissomError
    from lissom.extension import Method, ModelView, Proposal
    from lissom.graph.capture import capture
    from lissom.graph.layers import ModelGraph
    from lissom.methods.hmc import Hmc, HmcSettings
    from lissom.models.catalog import build_model
    from lissom.models.weights import load_weights
    from lissom.pipeline.compress import compress
    from lissom.pipeline.iterations import Iterated
    from lissom.pipeline.result import Result
    from lissom.pipeline.settings import Settings
    from lissom.plan.budget import Budget
    from lissom.plan.plan import Plan
    from lissom.report.report import Report
    from lissom.task import Classification, Data, Metric, Task
    from lissom.train.settings import TrainSettings

# Imported at first use: `lissom --help` needs no torch, `lissom.load` no training code.
_HOMES = {
    "Budget": "lissom.plan.budget",
    "Classification": "lissom.task",
    "Data": "lissom.task",
    "DataOptions": "lissom.data.options",
    "Hmc": "lissom.methods.hmc",
    "HmcSettings": "lissom.methods.hmc",
    "Iterated": "lissom.pipeline.iterations",
    "LissomError": "lissom.errors",
    "Method": "lissom.extension",
    "Metric": "lissom.task",
    "ModelGraph": "lissom.graph.layers",
    "ModelView": "lissom.extension",
    "Plan": "lissom.plan.plan",
    "Proposal": "lissom.extension",
    "Report": "lissom.report.report",
    "Result": "lissom.pipeline.result",
    "Settings": "lissom.pipeline.settings",
    "Task": "lissom.task",
    "TrainSettings": "lissom.train.settings",
    "build_model": "lissom.models.catalog",
    "capture": "lissom.graph.capture",
    "compress": "lissom.pipeline.compress",
    "load": "lissom.artifacts",
    "load_data": "lissom.data.load",
    "load_weights": "lissom.models.weights",
}

__version__ = version("lissom")

__all__ = [
    "Budget",
    "Classification",
    "Data",
    "DataOptions",
    "Hmc",
    "HmcSettings",
    "Iterated",
    "LissomError",
    "Method",
    "Metric",
    "ModelGraph",
    "ModelView",
    "Plan",
    "Proposal",
    "Report",
    "Result",
    "Settings",
    "Task",
    "TrainSettings",
    "build_model",
    "capture",
    "compress",
    "load",
    "load_data",
    "load_weights",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
