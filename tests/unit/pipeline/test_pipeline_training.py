"""Methods that train in order to decide."""

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lissom.cli import compress as command
from lissom.errors import RecipeError
from lissom.extension import ModelView, Proposal, StepState
from lissom.pipeline import job as flow
from lissom.pipeline.compress import compress
from lissom.pipeline.job import Job
from lissom.pipeline.result import Preview, Result
from lissom.pipeline.settings import Settings
from lissom.plan.budget import Budget
from lissom.plan.cost import Cost
from lissom.plan.plan import Plan
from lissom.report.preview import layout
from lissom.report.terminal import as_text
from lissom.task import Classification, Data
from lissom.train.settings import TrainSettings

INPUTS = (torch.zeros(1, 2, 4, 4),)


@pytest.fixture(autouse=True)
def _without_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give what a run did in place of its report: export and timing are not under test here."""
    monkeypatch.setattr(flow, "report_of", lambda run, *_others: (run, b""))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    ).eval()


@pytest.fixture
def data() -> Data:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 8, 2, 4, 4, generator=generator)
    batches = [(part, torch.arange(8) % 3) for part in images]
    return Data(batches, batches, batches, batches)


class KilledError(Exception):
    pass


class Decay:
    """A companion that shrinks one layer ever more, and may die on the way."""

    def __init__(self, model: nn.Module, dies_at: int) -> None:
        self.weight, self.factor, self.dies_at = model[0].weight, torch.tensor(1.0), dies_at

    def learns(self) -> Iterator[nn.Parameter]:
        return iter(())

    def without_decay(self) -> Iterator[nn.Parameter]:
        yield self.weight

    def penalty(self) -> Tensor | None:
        return None

    @torch.no_grad()
    def after_step(self, step: StepState) -> None:
        if step.step == self.dies_at:
            raise KilledError
        self.factor *= 0.99
        self.weight *= self.factor

    def after_average(self) -> None:
        pass

    def status(self) -> str:
        return "shrinking"

    def scalars(self) -> Mapping[str, float]:
        return {"factor": float(self.factor)}

    def state_dict(self) -> dict[str, Tensor]:
        return {"factor": self.factor}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.factor = state["factor"].clone()


class Learner:
    """Trains a copy, twice, and proposes its values; the structure stays."""

    name = "learner"
    trains = True

    def __init__(self, dies_at: int = -1, says: bool = True) -> None:
        self.dies_at, self.says, self.scores, self.rates = dies_at, says, [], []

    def smallest(self, view: ModelView) -> Cost:
        return Cost(1, 1, 32)

    def plan(self, view: ModelView, budget: Budget) -> Proposal:
        model = copy.deepcopy(view.model)
        assert view.train is not None
        assert view.score is not None
        first = view.train(model, Decay(model, -1))
        second = view.train(model, Decay(model, self.dies_at), rate_factor=5.0)
        assert first != second
        self.rates = [first["peak_rate"], second["peak_rate"]]
        self.scores.append(view.score(model))
        values = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        history = second if self.says else None
        return Proposal(Plan(()), values, view.graph.cost, training=history)


def run(
    network: nn.Module, data: Data, method: Any, workspace: Path | None = None, **training: Any
) -> Result:
    logs = training.pop("logs", None)
    recover = TrainSettings(
        **{"epochs": 3, "device": "cpu", "precision": "32", "recalibration_images": 16, **training}
    )
    settings = Settings(recover, workspace=workspace, logs=logs)
    return compress(network, INPUTS, data=data, method=method, budget="macs=1k", settings=settings)


def values(result: Result) -> dict[str, Tensor]:
    return result.model.state_dict()


def test_its_training_is_kept_and_recovery_only_recalibrates(
    network: nn.Module, data: Data, tmp_path: Path
) -> None:
    method = Learner()
    result = run(network, data, method, tmp_path)
    (stage,) = result.report.stages
    assert stage.history.epochs == ()
    assert stage.history.recalibration.images == 16
    kept = json.loads((tmp_path / "stage0" / "facts.json").read_text())["training"]
    assert [record["scalars"]["factor"] for record in kept["epochs"]] == pytest.approx(
        [0.99**4, 0.99**8, 0.99**12]
    )
    assert method.scores == [result.report.stages[0].row.metric_raw]
    trained = sorted(path.parent.name for path in tmp_path.rglob("train.safetensors"))
    assert trained == ["method1", "method2"]


def test_a_method_that_keeps_its_training_to_itself_is_recovered(
    network: nn.Module, data: Data, tmp_path: Path
) -> None:
    result = run(network, data, Learner(says=False), tmp_path)
    assert len(result.report.stages[0].history.epochs) == 3
    assert (tmp_path / "stage0" / "training" / "train.safetensors").exists()


@pytest.mark.parametrize(("given", "stated"), [({}, 0.02), ({"learning_rate": 0.002}, 0.01)])
def test_methods_state_their_rates_in_multiples_of_the_base(
    network: nn.Module, data: Data, given: dict[str, float], stated: float
) -> None:
    """At any length; a recovery of three epochs has a peak of its own."""
    method = Learner(says=False)
    result = run(network, data, method, **given)
    assert method.rates == pytest.approx([stated / 5, stated])
    assert result.report.stages[0].history.peak_rate == given.get("learning_rate", 0.01)


def test_every_training_has_a_log_of_its_own(
    network: nn.Module, data: Data, tmp_path: Path
) -> None:
    run(network, data, Learner(says=False), log="csv", logs=tmp_path, epochs=1)
    assert sorted(path.parent.name for path in tmp_path.rglob("metrics.csv")) == [
        "stage0-method1",
        "stage0-method2",
        "stage0-recovery",
    ]
    with pytest.raises(RecipeError, match="there is no folder to write to"):
        run(network, data, Learner(), log="csv")


def test_a_killed_training_continues(network: nn.Module, data: Data, tmp_path: Path) -> None:
    whole = run(network, data, Learner())
    with pytest.raises(KilledError):
        run(network, data, Learner(dies_at=9), tmp_path)
    assert not (tmp_path / "stage0" / "facts.json").exists()
    resumed = run(network, data, Learner(), tmp_path)
    assert all(torch.equal(values(whole)[name], tensor) for name, tensor in values(resumed).items())
    later = run(network, data, Learner(dies_at=0), tmp_path)  # decided before: trains no more
    assert all(torch.equal(values(whole)[name], tensor) for name, tensor in values(later).items())


def preview(network: nn.Module, data: Data, method: Any) -> tuple[Preview, list[str]]:
    said: list[str] = []
    settings = Settings(TrainSettings(device="cpu"), say=said.append)
    job = Job.start(network, INPUTS, data, Classification(), settings)
    return job.preview([method], Budget.parse("macs=1k")), said


def test_a_preview_stops_at_the_feasibility_table(
    network: nn.Module, data: Data, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    found, said = preview(network, data, Learner())
    assert found.proposal is None
    assert said == [found.feasibility.table]
    assert "decides while it trains" in as_text(layout(found.graph, found.proposal))
    monkeypatch.setattr("lissom.pipeline.recipe_run.preview_recipe", lambda recipe, say: found)
    command._preview(None)  # type: ignore[arg-type]
    assert "decides while it trains" in capsys.readouterr().out


class Plain:
    """A method of an older package: it does not say whether it trains."""

    name = "plain"

    def smallest(self, view: ModelView) -> Cost:
        return Cost(1, 1, 32)

    def plan(self, view: ModelView, budget: Budget) -> Proposal:
        assert (view.train is None) == (view.score is None)
        return Proposal(Plan(()), {}, view.graph.cost)


def test_a_method_that_does_not_say_whether_it_trains_works(network: nn.Module, data: Data) -> None:
    found, _ = preview(network, data, Plain())
    assert found.proposal is not None
    result = run(network, data, Plain(), epochs=1)
    assert len(result.report.stages[0].history.epochs) == 1
