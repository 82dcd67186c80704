"""Several iterations: what each finds, learns from and leaves, and where a killed run goes on."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lissom.errors import BudgetError
from lissom.extension import ModelView, Proposal
from lissom.pipeline import job as flow
from lissom.pipeline.compress import compress
from lissom.pipeline.iterations import Iterated
from lissom.pipeline.job import Job
from lissom.pipeline.result import Result
from lissom.pipeline.settings import Settings
from lissom.pipeline.training import Training
from lissom.plan.budget import Budget
from lissom.plan.build import apply_values, build
from lissom.plan.cost import Cost
from lissom.plan.low_rank import ChannelSVD
from lissom.plan.plan import Plan
from lissom.sensitivity.cache import fingerprint
from lissom.task import Classification, Data
from lissom.train.settings import TrainSettings

INPUTS = (torch.zeros(1, 2, 4, 4),)
STEPS = 3


class KilledError(Exception):
    pass


class Halving:
    """Factorizes one linear layer after the other with as much rank as the budget leaves."""

    name = "halving"
    trains = False
    limits = frozenset({"macs"})

    def __init__(self, smallest: tuple[int, ...] = ()) -> None:
        self.found: list[str] = []
        self.asked: list[int] = []
        self.originals: list[str] = []
        self.smallests = list(smallest)

    def smallest(self, view: ModelView) -> Cost:
        return Cost(1, self.smallests.pop(0) if self.smallests else 1, 32)

    def plan(self, view: ModelView, budget: Budget) -> Proposal:
        self.found.append(fingerprint(view.model, {}))
        self.originals.append(fingerprint(view.original, {}))
        limit = budget.limits(view.graph.cost)["macs"]
        self.asked.append(limit)
        layer = max(view.graph.layers, key=lambda one: one.cost.macs)
        weight = view.model.get_submodule(layer.name).weight.detach()
        rank = (limit - view.graph.cost.macs + layer.cost.macs) // sum(weight.shape)
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        factors = {
            f"{layer.name}.first.weight": values[:rank, None] * right[:rank],
            f"{layer.name}.last.weight": left[:, :rank].contiguous(),
        }
        cost = view.graph.cost - layer.cost + Cost(0, rank * sum(weight.shape))
        evidence = {"layer": layer.name}
        plan = Plan((ChannelSVD(layer.name, rank),))
        return Proposal(plan, factors, cost, {}, {}, evidence)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.BatchNorm1d(32)]
    for _ in range(STEPS):
        layers += [nn.Linear(32, 32, bias=False), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(32, 3)).eval()


@pytest.fixture(scope="module")
def data() -> Data:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 8, 2, 4, 4, generator=generator)
    batches = [(part, torch.arange(8) % 3) for part in images]
    return Data(batches, batches, batches, batches)


@pytest.fixture(scope="module", autouse=True)
def _without_measuring() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow, "report_of", lambda run, *_others: (run, b""))
        yield


@pytest.fixture(scope="module")
def whole(network: nn.Module, data: Data) -> Result:
    """A run that nothing interrupts."""
    return run(network, data, Halving())


def run(
    network: nn.Module,
    data: Data,
    method: Halving,
    workspace: Path | None = None,
    said: list[str] | None = None,
) -> Result:
    recover = TrainSettings(epochs=2, device="cpu", precision="32", recalibration_images=16)
    settings = Settings(
        recover, workspace=workspace, say=[].append if said is None else said.append
    )
    stages = [Iterated(method, STEPS, 1)]
    return compress(network, INPUTS, data=data, method=stages, budget="macs=0.6", settings=settings)


def test_each_iteration_decides_on_what_the_one_before_left(
    network: nn.Module, data: Data, tmp_path: Path
) -> None:
    method, said = Halving(), []
    result = run(network, data, method, tmp_path, said)
    original = 32 * 32 * STEPS + 3 * 32
    rows = [stage.row for stage in result.report.stages]
    assert [row.iteration for row in rows] == [1, 2, 3]
    assert [row.epochs for row in rows] == [1, 1, 2]
    assert [len(stage.history.epochs) for stage in result.report.stages] == [1, 1, 2]
    # The same fraction of the way that is left, from the MACs that were found.
    found = original
    for left, row in zip((3, 2, 1), rows, strict=True):
        expected = round(found * (int(0.6 * original) / found) ** (1 / left))
        assert row.asked == {"macs": expected}
        assert row.macs <= expected
        found = row.macs
    assert method.asked == [row.asked["macs"] for row in rows]
    # Each looks at the recovered network: what the folder of the one before holds.
    assert len(set(method.found)) == 3
    assert method.found[0] == fingerprint(network, {})
    assert set(method.originals) == {fingerprint(network, {})}
    assert [line for line in said if line.startswith("halving")] == [
        f"halving, iteration {number} of 3: at most macs={asked}"
        for number, asked in enumerate(method.asked, start=1)
    ]
    sides = result.report.sides
    assert (rows[-1].metric, rows[-1].macs) == (sides[1].metric, sides[1].graph.cost.macs)
    assert all(0 <= metric <= 1 for row in rows for metric in (row.metric_raw, row.metric))
    stages = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert stages == ["stage0-iteration1", "stage0-iteration2", "stage0-iteration3"]


def test_one_plan_leads_from_the_original_to_the_result(network: nn.Module, whole: Result) -> None:
    assert len(whole.plan.decisions) == STEPS
    rebuilt = build(network, whole.plan)
    apply_values(rebuilt, whole.model.state_dict())
    images = torch.randn(4, *INPUTS[0].shape[1:])
    assert torch.equal(rebuilt.eval()(images), whole.model(images))


def test_the_teacher_is_the_original_throughout(
    network: nn.Module, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    teachers: list[str] = []
    recover = Training.recover

    def noting(self: Training, *arguments: Any) -> Any:
        teachers.append(fingerprint(self.teacher, {}))
        return recover(self, *arguments)

    monkeypatch.setattr(Training, "recover", noting)
    run(network, data, Halving())
    assert teachers == [fingerprint(network, {})] * STEPS


def killing(owner: Any, name: str, at: int, patch: pytest.MonkeyPatch) -> None:
    """Let the call of that number die; those before it work."""
    calls, whole = [0], getattr(owner, name)

    def dying(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == at:
            raise KilledError
        return whole(*arguments, **named)

    patch.setattr(owner, name, dying)


def values(result: Result) -> Mapping[str, Tensor]:
    return result.model.state_dict()


@pytest.mark.parametrize(
    ("place", "iteration"), [("decision", 2), ("recovery", 2), ("between", 2), ("recovery", 3)]
)
def test_a_killed_run_goes_on_inside_its_iteration(
    network: nn.Module, data: Data, whole: Result, tmp_path: Path, place: str, iteration: int
) -> None:
    killed, resumed = Halving(), Halving()
    owner, name = {
        "decision": (Halving, "plan"),
        "recovery": (Training, "recover"),
        "between": (flow.StageFolder, "finish"),
    }[place]
    with pytest.MonkeyPatch.context() as patch:
        killing(owner, name, iteration, patch)
        with pytest.raises(KilledError):
            run(network, data, killed, tmp_path)
    decided = iteration - 1 if place == "decision" else iteration
    trained: list[Training] = []
    with pytest.MonkeyPatch.context() as patch:
        recover = Training.recover

        def noting(self: Training, *arguments: Any) -> Any:
            trained.append(self)
            return recover(self, *arguments)

        patch.setattr(Training, "recover", noting)
        result = run(network, data, resumed, tmp_path)
    assert len(resumed.found) == STEPS - decided
    assert len(trained) == STEPS - (iteration - 1)
    assert all(torch.equal(values(whole)[name], value) for name, value in values(result).items())
    assert result.plan == whole.plan
    assert [stage.row for stage in result.report.stages] == [
        stage.row for stage in whole.report.stages
    ]


def test_a_finished_step_is_neither_measured_nor_recovered_again(
    network: nn.Module, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = run(network, data, Halving(), tmp_path)
    monkeypatch.setattr(Training, "recover", lambda *_all: pytest.fail("recovered again"))
    said: list[str] = []
    again = run(network, data, Halving(), tmp_path, said)
    assert not any(line.startswith(("evaluate before", "evaluate compressed")) for line in said)
    assert all(torch.equal(values(once)[name], value) for name, value in values(again).items())
    histories = [[stage.history for stage in one.report.stages] for one in (once, again)]
    assert histories[0] == histories[1]


def test_a_later_iteration_that_can_not_reach_its_part_is_refused_before_it_measures(
    network: nn.Module, data: Data
) -> None:
    method = Halving(smallest=(1, 3_000))
    with pytest.raises(BudgetError, match=r"^halving, iteration 2 of 3: budget: .* is 3,000 \(mac"):
        run(network, data, method)
    assert len(method.found) == 1


def test_the_first_is_refused_before_any_work(network: nn.Module, data: Data) -> None:
    method, said = Halving(smallest=(1_800,)), []
    stages = [Iterated(method, 2), Halving(smallest=(1,))]
    settings = Settings(TrainSettings(device="cpu"), say=said.append)
    with pytest.raises(BudgetError, match=r"^halving, iteration 1 of 2: budget: .* is 1,800 \(mac"):
        compress(network, INPUTS, data=data, method=stages, budget="macs=0.1", settings=settings)
    assert method.found == []
    assert len(said) == 1


def test_a_preview_foresees_the_iterations_and_decides_the_first(
    network: nn.Module, data: Data
) -> None:
    method = Halving()
    settings = Settings(TrainSettings(epochs=20, device="cpu"))
    job = Job.start(network, INPUTS, data, Classification(), settings)
    found = job.preview([Iterated(method, 2)], Budget.parse("macs=0.64"))
    macs = [32 * 32 * STEPS + 3 * 32, int(0.64 * (32 * 32 * STEPS + 3 * 32))]
    assert [row.asked["macs"] for row in found.steps] == [
        round((macs[0] * macs[1]) ** 0.5),
        macs[1],
    ]
    assert [row.epochs for row in found.steps] == [2, 20]
    assert method.asked == [found.steps[0].asked["macs"]]
    assert found.proposal is not None
