from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lissom.cli.app import run
from lissom.extension import Proposal
from lissom.graph.layers import LayerSpec, ModelGraph
from lissom.pipeline import recipe_run
from lissom.pipeline.feasibility import Feasibility
from lissom.plan.cost import Cost
from lissom.plan.plan import Plan
from lissom.recipe.recipe import Recipe
from lissom.report.measured import StepRow
from report_samples import REPORT

BASIC = ("--model", "lissom:resnet20", "--data", "digits", "--budget", "macs=0.5")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replace the work by a note of what was asked for."""
    noted: list[dict[str, Any]] = []

    def run_recipe(recipe: Recipe, out: Path, *, resume: bool, say: Any) -> SimpleNamespace:
        say("working")
        noted.append({"recipe": recipe, "out": out, "resume": resume})
        return SimpleNamespace(report=REPORT)

    monkeypatch.setattr(recipe_run, "run_recipe", run_recipe)
    return noted


def test_flags_become_a_recipe(calls: list[dict[str, Any]], tmp_path: Path) -> None:
    flags = (
        *("--weights", "w.pt", "--data-dir", "there", "--method", "nahc", "--epochs", "3"),
        *("--seed", "4", "--device", "cpu", "--teacher", "lissom:resnet56", "--round-to", "4"),
        *("--ignore", "conv1", "--ignore", "fc", "--set", "stages.0.tau=0.5", "--resume"),
        *("--set", "recover.learning_rate=1e-3", "--devices", "2", "--strategy", "ddp"),
        *("--log", "csv"),
    )
    assert run(["compress", *BASIC, *flags, "--out", str(tmp_path)]) == 0
    (call,) = calls
    recipe = call["recipe"]
    assert call["out"] == tmp_path
    assert call["resume"] is True
    assert (recipe.model.name, recipe.model.weights) == ("lissom:resnet20", Path("w.pt"))
    assert (recipe.data.name, recipe.data.dir) == ("digits", Path("there"))
    assert recipe.stages[0].method == "hmc"
    assert recipe.stages[0].options == {"variant": "nahc", "tau": 0.5}
    assert recipe.budget == {"macs": "0.5"}
    training = recipe.train_settings()
    assert (training.epochs, training.seed, training.device) == (3, 4, "cpu")
    assert training.learning_rate == 1e-3
    assert (training.devices, training.strategy, training.log) == (2, "ddp", "csv")
    assert recipe.teacher.name == "lissom:resnet56"
    assert recipe.ignore == ("conv1", "fc")
    assert recipe.round_to == 4


def test_an_accelerator_is_a_device(calls: list[dict[str, Any]], tmp_path: Path) -> None:
    assert run(["compress", *BASIC, "--accelerator", "cuda", "--out", str(tmp_path)]) == 0
    assert calls[0]["recipe"].train_settings().device == "cuda"


def test_only_the_first_process_shows_the_report(
    calls: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert run(["compress", *BASIC, "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == ""
    assert run(["compress", *BASIC, "--method"]) == 2
    assert run(["compress", *BASIC]) == 2
    assert "process 1: error: --out: missing" in capsys.readouterr().err


def test_flags_go_before_the_recipe_file(calls: list[dict[str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "model: lissom:resnet8\ndata: digits\nbudget: {macs: 0.5}\nrecover: {epochs: 9}\n"
    )
    out = str(tmp_path / "out")
    assert run(["compress", str(path), "--budget", "params=4x", "--out", out]) == 0
    recipe = calls[0]["recipe"]
    assert recipe.model.name == "lissom:resnet8"
    assert recipe.budget == {"params": "4x"}
    assert recipe.train_settings().epochs == 9
    assert calls[0]["resume"] is False


def test_report_goes_to_standard_output_and_progress_to_the_other(
    calls: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compress", *BASIC, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("lissom:tiny compressed by hmc\n")
    assert printed.out.endswith(f"Written: {tmp_path}\n")
    assert printed.err == "working\n"
    assert len(calls) == 1


def test_a_factory_in_a_recipe_needs_permission(
    calls: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("model: my.net:make\ndata: digits\nbudget: {macs: 0.5}\n")
    command = ["compress", str(path), "--out", str(tmp_path / "out")]
    assert run(command) == 2
    assert "--allow-import" in capsys.readouterr().err
    assert run([*command, "--allow-import"]) == 0
    assert [call["recipe"].model.name for call in calls] == ["my.net:make"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "lissom:resnet20"], "nothing to compress: give a RECIPE.yaml, or --model"),
        ([*BASIC[:4]], "budget: missing; give it in the recipe or on the command line"),
        (
            [*BASIC, "--set", "recover.epcohs=3"],
            "recover.epcohs: unknown key; did you mean 'epochs'",
        ),
        ([*BASIC, "--set", "nothing"], "--set 'nothing': expected PLACE=VALUE"),
        ([*BASIC[:4], "--budget", "macs=1.5"], "budget: macs=1.5"),
        ([*BASIC[:4], "--budget", "macs=0"], "budget: macs=0"),
        ([*BASIC, "--round-to", "0"], "round_to: expected auto or an integer of at least 1"),
        (["gone.yaml"], "gone.yaml: can't be read"),
    ],
)
def test_bad_input_is_explained_before_any_work(
    calls: list[dict[str, Any]],
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["compress", *arguments, "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert len(printed.err.splitlines()) == 1
    assert calls == []
    assert not (tmp_path / "out").exists()


def test_an_occupied_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "old").write_text("mine")
    assert run(["compress", *BASIC, "--out", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_dry_run_shows_feasibility_and_groups_only(
    calls: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    layer = LayerSpec("conv1", "conv2d", (3, 8, 8), (4, 8, 8), 1, Cost(1000, 50_000, 32_000))
    preview = SimpleNamespace(
        graph=ModelGraph((layer,), (), ()),
        proposal=Proposal(Plan(()), {}, Cost(500, 20_000, 16_000), labels={"conv1": "prune"}),
        feasibility=Feasibility("hmc", (), Cost(100, 5_000, 3_200)),
        steps=(StepRow(0, "hmc", 1, 1, {"macs": 20_000.0}, 2),),
    )
    monkeypatch.setattr(recipe_run, "preview_recipe", lambda recipe, say: preview)
    assert run(["compress", *BASIC, "--dry-run", "--out", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert ["conv1", "prune", "50.00k"] in [line.split() for line in text.splitlines()]
    assert "Predicted, not measured: MACs 50.00k→20.00k, parameters 1.000k→500." in text
    assert "file" not in text
    assert "Steps" not in text
    assert calls == []
    assert not (tmp_path / "out").exists()


def test_a_folder_is_needed_unless_nothing_is_written(
    calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compress", *BASIC]) == 2
    assert "--out: missing; give a new folder" in capsys.readouterr().err
    assert calls == []
