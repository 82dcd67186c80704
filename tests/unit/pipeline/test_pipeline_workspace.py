import json
from pathlib import Path

import pytest

from lissom.errors import DataError, RecipeError
from lissom.extension import Proposal
from lissom.pipeline.workspace import Workspace
from lissom.plan.cost import Cost
from lissom.plan.plan import Plan


def test_each_stage_and_each_iteration_has_a_folder_of_its_own(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    names = [workspace.stage(1).folder.name, workspace.stage(1, 2).folder.name]
    assert names == ["stage1", "stage1-iteration2"]


def test_it_knows_whether_a_stage_has_begun(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert not workspace.begun
    workspace.stage(0).training.mkdir(parents=True)
    assert workspace.begun


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
            workspace.stage(0).save(Proposal(Plan(()), {}, Cost()))
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
