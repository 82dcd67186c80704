import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lissom.errors import DataError, LissomError, RecipeError
from lissom.extension import Proposal
from lissom.pipeline.workspace import Workspace
from lissom.plan.cost import Cost
from lissom.plan.low_rank import Tucker2
from lissom.plan.plan import Plan

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
    stage = Workspace(tmp_path).stage(0)
    assert stage.load() is None
    stage.save(PROPOSAL)
    found = stage.load()
    assert found is not None
    assert torch.equal(found.values["conv.core.weight"], PROPOSAL.values["conv.core.weight"])
    for name in ("plan", "predicted", "labels", "sensitivities", "evidence", "training"):
        assert getattr(found, name) == getattr(PROPOSAL, name), name


def test_a_decision_without_training_comes_back_without(tmp_path: Path) -> None:
    stage = Workspace(tmp_path).stage(0)
    stage.save(replace(PROPOSAL, training=None))
    found = stage.load()
    assert found is not None
    assert found.training is None


@pytest.mark.parametrize("name", ["facts.json", "plan.json", "values.safetensors"])
@pytest.mark.parametrize("content", ["{", "{}", None])
def test_damaged_decisions_are_named(tmp_path: Path, name: str, content: str | None) -> None:
    stage = Workspace(tmp_path).stage(0)
    stage.save(PROPOSAL)
    path = stage.folder / name
    path.unlink() if content is None else path.write_text(content)
    if name == "facts.json" and content is None:
        assert stage.load() is None
        return
    with pytest.raises(LissomError, match="stage0: what was decided can't be read"):
        stage.load()


def test_the_first_setting_that_differs_is_named(tmp_path: Path) -> None:
    recipe = {"seed": 3, "recover": {"epochs": 2}, "stages": [{"tau": 0.1}], "ignore": ("a",)}
    with Workspace(tmp_path / "w", recipe).claimed({"network": "1"}):
        pass
    Workspace(tmp_path / "w", recipe).check({"network": "1"})
    Workspace(tmp_path / "w", recipe).check()
    for changed, message in (
        ({"recover": {"epochs": 9}}, r"recover\.epochs = 2, now it is 9"),
        ({"stages": [{"tau": 0.2}]}, r"stages\.0\.tau = 0\.1, now it is 0\.2"),
        ({"ignore": ()}, r"ignore = \['a'\], now it is \[\]"),
    ):
        with pytest.raises(RecipeError, match=message):
            Workspace(tmp_path / "w", recipe | changed).check()
    with (
        pytest.raises(RecipeError, match="network = '1', now it is '2'"),
        Workspace(tmp_path / "w", recipe).claimed({"network": "2"}),
    ):
        pytest.fail("claimed")


def fail_within(workspace: Workspace, *, decided: bool) -> None:
    with workspace.claimed({"seed": 1}):
        assert json.loads((workspace.folder / "run.json").read_text()) == {"seed": 1}
        if decided:
            workspace.stage(0).save(PROPOSAL)
        raise DataError("broken image")


def test_an_error_before_any_decision_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="broken image"):
        fail_within(Workspace(tmp_path / "out" / "work"), decided=False)
    assert list(tmp_path.iterdir()) == []


def test_an_error_after_a_decision_leaves_it_for_a_resume(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "out" / "work")
    with pytest.raises(DataError, match="broken image"):
        fail_within(workspace, decided=True)
    with workspace.claimed({"seed": 1}):
        assert workspace.stage(0).load() is not None


def test_nothing_of_the_users_is_removed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(DataError, match="broken image"):
        fail_within(Workspace(tmp_path), decided=False)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
