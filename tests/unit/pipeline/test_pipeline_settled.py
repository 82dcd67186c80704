"""Methods that settle every value, and what a view tells them of the file to be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lissom.extension import ModelView, Proposal
from lissom.pipeline import job as flow
from lissom.pipeline.compress import compress
from lissom.pipeline.result import Result
from lissom.pipeline.settings import Settings
from lissom.pipeline.workspace import Workspace
from lissom.plan.budget import Budget
from lissom.plan.cost import Cost
from lissom.plan.plan import Plan, Source
from lissom.plan.quantize import Quantize
from lissom.task import Data
from lissom.train.settings import TrainSettings

INPUTS = (torch.zeros(1, 2, 4, 4),)


@pytest.fixture(autouse=True)
def _without_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "report_of", lambda run, *_others: (run, b""))


class Rounding:
    """Rounds the first convolution to three values, and says whether that must stay."""

    name = "rounding"
    trains = False
    limits = frozenset({"macs"})

    def __init__(self, *, settled: bool = True) -> None:
        self.settled, self.bases = settled, []

    def smallest(self, view: ModelView) -> Cost:
        return Cost(1, 1, 32)

    def plan(self, view: ModelView, budget: Budget) -> Proposal:
        self.bases.append(view.base)
        levels = view.model[0].weight.detach().sign()
        nonzero = int(levels.count_nonzero())
        return Proposal(
            Plan((Quantize("0", 1, nonzero, channel_scales=False),)),
            {"0.weight": levels / 8},
            view.graph.cost,
            settled=self.settled,
        )


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    ).eval()


def run(model: nn.Module, *methods: Rounding, base: Plan | None = None) -> Result:
    images = torch.randn(2, 8, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    batches = [(part, torch.arange(8) % 3) for part in images]
    settings = Settings(
        TrainSettings(epochs=1, device="cpu", precision="32", recalibration_images=16), base=base
    )
    data = Data(batches, batches, batches, batches)
    return compress(model, INPUTS, data=data, method=methods, budget="macs=1k", settings=settings)


def test_nothing_follows_where_every_value_is_settled() -> None:
    model = network()
    result = run(model, Rounding())
    (stage,) = result.report.stages
    assert stage.history.epochs == ()
    assert stage.history.recalibration is None
    assert stage.history.device == "cpu"
    assert stage.row.metric_raw == result.report.sides[1].metric
    expected = model.state_dict() | {"0.weight": model[0].weight.detach().sign() / 8}
    for name, value in result.model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_recovery_follows_where_they_are_not() -> None:
    result = run(network(), Rounding(settled=False))
    (stage,) = result.report.stages
    assert len(stage.history.epochs) == 1
    assert stage.history.recalibration is not None
    assert not torch.equal(result.model[0].weight.abs() * 8, torch.ones(4, 2, 3, 3))


def test_a_view_knows_the_plan_that_led_to_its_network() -> None:
    model = network()
    first, second = Rounding(settled=False), Rounding()
    base = Plan.starting_from(model, Source("lissom:some"))
    result = run(model, first, second, base=base)
    assert first.bases == [base]
    assert second.bases == [
        Plan(result.plan.decisions[:1], base.source, base.signature, base.tensors)
    ]
    assert len(result.plan.decisions) == 2
    alone = Rounding()
    run(model, alone)
    assert alone.bases == [Plan.starting_from(model)]


def test_a_workspace_keeps_that_values_are_settled(tmp_path: Path) -> None:
    stage = Workspace(tmp_path).stage(0)
    for settled in (True, False):
        stage.save(Proposal(Plan(()), {}, Cost(3, 4, 5), settled=settled))
        found = stage.load()
        assert found is not None
        assert found.settled is settled
        assert found.predicted == Cost(3, 4, 5)
