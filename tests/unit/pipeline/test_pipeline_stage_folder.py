from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lissom.errors import LissomError
from lissom.extension import Proposal
from lissom.pipeline.stage_folder import Outcome, StageFolder
from lissom.plan.cost import Cost
from lissom.plan.low_rank import Tucker2
from lissom.plan.plan import Plan
from lissom.train.history import EpochRecord, History, Recalibration

PROPOSAL = Proposal(
    plan=Plan((Tucker2("conv", 2, 3),)),
    values={"conv.core.weight": torch.rand(3, 2, 3, 3).transpose(0, 1)},
    predicted=Cost(10, 20, 320),
    labels={"conv": "decompose"},
    sensitivities={"conv": {"decompose": ((0.25, 0.1), (0.5, 0.7))}},
    evidence={"tau": 0.5, "units": [{"name": "conv"}]},
    training={"epochs": [{"epoch": 0, "loss": 0.5}], "device": "cpu"},
)


def test_what_was_decided_comes_back(tmp_path: Path) -> None:
    stage = StageFolder(tmp_path / "stage0")
    assert stage.load() is None
    stage.save(PROPOSAL)
    found = stage.load()
    assert found is not None
    assert torch.equal(found.values["conv.core.weight"], PROPOSAL.values["conv.core.weight"])
    for name in ("plan", "predicted", "labels", "sensitivities", "evidence", "training"):
        assert getattr(found, name) == getattr(PROPOSAL, name), name


def test_a_decision_without_training_comes_back_without(tmp_path: Path) -> None:
    stage = StageFolder(tmp_path / "stage0")
    stage.save(replace(PROPOSAL, training=None))
    found = stage.load()
    assert found is not None
    assert found.training is None


@pytest.mark.parametrize("name", ["facts.json", "plan.json", "values.safetensors"])
@pytest.mark.parametrize("content", ["{", "{}", None])
def test_damaged_decisions_are_named(tmp_path: Path, name: str, content: str | None) -> None:
    stage = StageFolder(tmp_path / "stage0")
    stage.save(PROPOSAL)
    path = stage.folder / name
    path.unlink() if content is None else path.write_text(content)
    if name == "facts.json" and content is None:
        assert stage.load() is None
        return
    with pytest.raises(LissomError, match="stage0: what was decided can't be read"):
        stage.load()


SHARED = torch.rand(3, 2)
OUTCOME = Outcome(
    0.25,
    0.75,
    History(
        (EpochRecord(0, 1.5, 0.1, 64, 2.5, {"factor": 0.5}),),
        "cpu",
        "32",
        "no",
        peak_rate=0.01,
        averaged=True,
        recalibration=Recalibration(16, ((0.0, 0.3), (0.5, 0.2)), 0.5),
    ),
    {"a.weight": SHARED.T, "tied.weight": SHARED.T, "a.num_batches_tracked": torch.tensor(7)},
)


def test_how_it_ended_comes_back(tmp_path: Path) -> None:
    stage = StageFolder(tmp_path / "stage0")
    assert stage.outcome() is None
    stage.finish(OUTCOME)
    found = stage.outcome()
    assert found is not None
    assert (found.metric_raw, found.metric, found.history) == (0.25, 0.75, OUTCOME.history)
    assert found.values.keys() == OUTCOME.values.keys()
    for name, value in OUTCOME.values.items():
        assert torch.equal(found.values[name], value), name
        assert found.values[name].dtype == value.dtype


@pytest.mark.parametrize("name", ["outcome.json", "recovered.safetensors"])
@pytest.mark.parametrize("content", ["{", "{}", None])
def test_a_damaged_end_is_named(tmp_path: Path, name: str, content: str | None) -> None:
    stage = StageFolder(tmp_path / "stage0")
    stage.finish(OUTCOME)
    path = stage.folder / name
    path.unlink() if content is None else path.write_text(content)
    if name == "outcome.json" and content is None:
        assert stage.outcome() is None
        return
    with pytest.raises(
        LissomError, match=r"stage0: how it ended .* delete its outcome\.json to rec"
    ):
        stage.outcome()
