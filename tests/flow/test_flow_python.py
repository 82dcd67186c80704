"""From Python: a user's own network, ordinary DataLoaders, several stages."""

import dataclasses
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flow_runs import assert_columns_add_up
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lissom
from lissom.artifacts import weights_content
from lissom.errors import BudgetError, DataError, LissomError, ModelError, PlanError, RecipeError
from lissom.measure.latency import Conditions
from lissom.pipeline.feasibility import stage_budgets
from lissom.plan.cost import Cost
from lissom.task import Metric

SHAPE = (1, 3, 8, 8)
QUICK = lissom.HmcSettings(images=64, statistics_images=64, fractions=(0.5,), rounds=1)


class Own(nn.Module):
    """A network of the user's, with a dropout that draws random numbers in training."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 24, 3, padding=1, bias=False)
        self.drop = nn.Dropout(0.1)
        self.out = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        return self.out(self.drop(F.relu(self.second(x)).mean(dim=(2, 3))))


def loaders(samples: int = 64) -> lissom.Data:
    images = torch.randn(samples, *SHAPE[1:], generator=torch.Generator().manual_seed(0))
    targets = (images.mean(dim=(1, 2, 3)) > 0).long() + 2 * (images[:, 0].mean(dim=(1, 2)) > 0)
    samples_of = TensorDataset(images, targets)
    fixed = DataLoader(samples_of, batch_size=32)
    shuffled = DataLoader(samples_of, batch_size=32, shuffle=True)
    return lissom.Data(train=shuffled, held_out=fixed, test=fixed, calibration=fixed)


def settings(**changes: Any) -> lissom.Settings:
    recover = lissom.TrainSettings(
        epochs=changes.pop("epochs", 1), recalibration_images=64, device="cpu"
    )
    return lissom.Settings(
        recover=recover, latency=Conditions(runs=5, warmup=1), allow_slower=True, **changes
    )


def quickly(model: nn.Module, **changes: Any) -> lissom.Result:
    options = {"data": loaders(), "method": lissom.Hmc(QUICK), "budget": "macs=0.5"} | changes
    options.setdefault("settings", settings())
    return lissom.compress(model, (torch.zeros(SHAPE),), **options)


@pytest.fixture
def model() -> Own:
    torch.manual_seed(1)
    return Own()


class Normalising(Own):
    """Writes into its input."""

    def forward(self, x: Tensor) -> Tensor:
        x -= 0.5
        return super().forward(x.div_(0.25))


def test_a_network_that_writes_into_its_input_is_compressed_like_the_one_that_does_not(
    model: Own, tmp_path: Path
) -> None:
    images = torch.randn(64, *SHAPE[1:], generator=torch.Generator().manual_seed(0))
    batches = [(part, torch.zeros(32).long()) for part in images.clone().split(32)]
    data = lissom.Data(*[batches] * 4)
    writing = Normalising()
    writing.load_state_dict(model.state_dict())
    found = lissom.compress(
        writing,
        (batches[0][0][:1],),
        data=data,
        method=lissom.Hmc(QUICK),
        budget="macs=0.5",
        settings=settings(),
    )
    assert torch.equal(torch.cat([part for part, _ in batches]), images)
    found.save(tmp_path)
    plain = [((part - 0.5) / 0.25, targets) for part, targets in batches]
    other = quickly(model, data=lissom.Data(*[plain] * 4))
    assert other.plan.decisions == found.plan.decisions
    assert other.report.compressed.accuracy == found.report.compressed.accuracy


def test_two_stages_meet_the_budget_together_and_leave_the_input_alone(
    model: Own, tmp_path: Path
) -> None:
    before = {name: t.clone() for name, t in model.state_dict().items()}
    modes = {name: module.training for name, module in model.named_modules()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    result = quickly(model, method=[lissom.Hmc(QUICK), lissom.Hmc(QUICK)], budget="macs=0.4")

    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]

    report = result.report
    assert report.method == "hmc+hmc"
    assert report.source == ""
    assert report.compressed.macs <= 0.4 * report.original.macs
    assert len(report.evidence["recovery"]) == 2
    assert_columns_add_up(report.to_dict())

    result.save(tmp_path)
    with pytest.raises(PlanError, match="does not say which network"):
        lissom.load(tmp_path)
    loaded = lissom.load(tmp_path, model=Own())
    assert weights_content(loaded) == weights_content(result.model)
    images = torch.randn(5, *SHAPE[1:])
    assert torch.equal(loaded(images), result.model(images))


def test_stages_go_the_same_fraction_of_the_way_each() -> None:
    budget = lissom.Budget.parse("macs=0.25,params=0.25")
    budgets = stage_budgets(budget, Cost(1600, 80_000), [lissom.Hmc(), lissom.Hmc()])
    limits = [budget.limits(Cost(7, 7)) for budget in budgets]
    assert limits == [{"params": 800, "macs": 40_000}, {"params": 400, "macs": 20_000}]


def test_a_seed_repeats_a_run_and_a_workspace_continues_only_the_same_one(
    model: Own, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    said: list[str] = []
    first = quickly(model, settings=settings(workspace=kept))
    torch.rand(17)
    assert weights_content(quickly(model).model) == weights_content(first.model)
    again = quickly(model, settings=settings(workspace=kept, say=said.append))
    assert weights_content(again.model) == weights_content(first.model)
    assert any("decided before" in line for line in said)
    with pytest.raises(RecipeError, match=r"budget\.macs = '0\.5', now it is '0\.6'"):
        quickly(model, settings=settings(workspace=kept), budget="macs=0.6")
    with pytest.raises(RecipeError, match=r"recover\.epochs = 1, now it is 2"):
        quickly(model, settings=settings(workspace=kept, epochs=2))
    with torch.no_grad():
        model.first.weight[0] += 1
    with pytest.raises(RecipeError, match="network = "):
        quickly(model, settings=settings(workspace=kept))


def test_an_impossible_budget_is_refused_before_any_work(model: Own, tmp_path: Path) -> None:
    said: list[str] = []
    kept = tmp_path / "kept"
    with pytest.raises(BudgetError, match=r"smallest that hmc can reach is [\d,]+ \(macs=0\.\d+"):
        quickly(model, budget="macs=0.0001", settings=settings(workspace=kept, say=said.append))
    assert len(said) == 1
    assert said[0].startswith("budget")
    assert not kept.exists()


class Outsized(lissom.Hmc):
    """A method that promises what it does not keep."""

    def plan(self, view: lissom.ModelView, budget: lissom.Budget) -> lissom.Proposal:
        proposal = super().plan(view, lissom.Budget.parse("macs=0.9"))
        return dataclasses.replace(proposal, predicted=Cost(1, 1))


def test_a_network_above_the_budget_is_refused_before_recovery(model: Own) -> None:
    said: list[str] = []
    with pytest.raises(BudgetError, match=r"was measured at .* this is a defect of the method"):
        quickly(model, method=Outsized(QUICK), settings=settings(say=said.append))
    assert not any(line.startswith("evaluate before recovery") for line in said)


class Blind(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3]


def test_bad_arguments_are_explained(model: Own) -> None:
    once = dataclasses.replace(loaders(), held_out=iter(loaders().held_out))
    empty = dataclasses.replace(loaders(), test=[])
    cases: list[tuple[type[LissomError], str, dict[str, Any]]] = [
        (DataError, "data.held_out: a .* gives its batches only once", {"data": once}),
        (DataError, "set to evaluate on is empty", {"data": empty}),
        (RecipeError, "teacher: gives outputs", {"settings": settings(teacher=Blind())}),
        (RecipeError, "teacher: can.t be run", {"settings": settings(teacher=Own().out)}),
        (RecipeError, "method: none is given", {"method": []}),
        (RecipeError, "method: 'hcm' is not known", {"method": "hcm"}),
        (RecipeError, "ignore: 'fist' is not a layer", {"settings": settings(ignore=("fist",))}),
        (BudgetError, "a limit on size is not offered here", {"budget": "size=0.5"}),
    ]
    for error, message, changes in cases:
        with pytest.raises(error, match=message):
            quickly(model, **changes)
    with pytest.raises(BudgetError, match="the network has no macs to limit"):
        quickly(Blind())
    with torch.no_grad():
        model.second.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"second\.weight: holds NaN"):
        quickly(model)


class Pair(nn.Module):
    """Two inputs, a dict of outputs, no batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(1, 16, 3, padding=1)
        self.both = nn.Conv2d(32, 16, 3, padding=1)
        self.out = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
        joined = torch.cat([self.left(image), self.right(mask)], dim=1)
        return {"image": image + self.out(F.relu(self.both(F.relu(joined))))}


class Restoration(lissom.Task):
    """Images to images; batches are dicts; the metric falls."""

    metric = Metric("error", "grey levels", higher_is_better=False)

    def inputs(self, batch: Any) -> tuple[Tensor, ...]:
        return batch["image"], batch["mask"]

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        return F.mse_loss(outputs["image"], batch["clean"])

    def distance(self, outputs: Any, reference: Any, temperature: float = 1.0) -> Tensor:
        return F.mse_loss(outputs["image"], reference["image"])

    def scores(self, outputs: Any, batch: Any) -> Tensor:
        return (outputs["image"] - batch["clean"]).abs().mean(dim=(1, 2, 3))


def test_a_task_of_the_users_own() -> None:
    torch.manual_seed(2)
    batch = {"image": torch.rand(16, 3, 8, 8), "mask": torch.rand(16, 1, 8, 8)}
    batches = [batch | {"clean": batch["image"].round()}]
    data = lissom.Data(train=batches, held_out=batches, test=batches, calibration=batches)
    result = lissom.compress(
        Pair(),
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 8)),
        data=data,
        task=Restoration(),
        method=lissom.Hmc(QUICK),
        budget="macs=0.6",
        settings=settings(),
    )
    body = result.report.to_dict()
    assert body["compressed"]["macs"] <= 0.6 * body["original"]["macs"]
    assert body["compressed"]["metric"].keys() == {"name", "value", "unit", "higher_is_better"}
    assert body["compressed"]["metric"]["name"] == "error"
    assert body["compressed"]["metric"]["higher_is_better"] is False
    assert body["compressed"]["metric_raw"] > 0
    assert "accuracy" not in body["compressed"]
    assert_columns_add_up(body)
