"""``--set stages.0.iterations=3``: one plan in several iterations, resumed in the middle of one."""

import json
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from flow_runs import assert_columns_add_up

from lissom.artifacts import load, load_plan, load_report, weights_content
from lissom.cli.app import run
from lissom.graph.capture import capture
from lissom.models.catalog import build_model
from lissom.report.html import page
from lissom.report.terminal import as_text, layout

ITERATED = (
    *("--budget", "macs=0.3,params=0.4", "--set", "stages.0.iterations=3"),
    *("--set", "stages.0.compare=false"),
)

# Ends the process, as a power cut would, when a training saves its state for the second time: after
# the brief recovery of the second of three iterations.
_SCRIPT = """
import os, signal, sys
import torch
from lissom.train.checkpoint import Checkpoint
torch.set_num_threads(1)
save, times = Checkpoint.save, []
def save_and_die(*arguments):
    save(*arguments)
    times.append(1)
    if len(times) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
Checkpoint.save = save_and_die
from lissom.cli.app import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def out(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run in three iterations."""
    folder = tmp_path_factory.mktemp("iterated") / "out"
    assert run(["compress", str(recipe_file), *ITERATED, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def report(out: Path) -> dict[str, Any]:
    return json.loads((out / "report.json").read_text())


def test_the_report_tells_of_each_iteration(out: Path, report: dict[str, Any]) -> None:
    steps = report["steps"]
    assert [(row["stage"], row["iteration"], row["iterations"]) for row in steps] == [
        (0, 1, 3),
        (0, 2, 3),
        (0, 3, 3),
    ]
    assert [row["epochs"] for row in steps] == [1, 1, 2]
    assert [len(one["epochs"]) for one in report["evidence"]["recovery"]] == [1, 1, 2]
    found = report["original"]
    for left, row in zip((3, 2, 1), steps, strict=True):
        for quantity, share in (("macs", 0.3), ("params", 0.4)):
            target = int(share * report["original"][quantity])
            way = round(found[quantity] * (target / found[quantity]) ** (1 / left))
            assert row["asked"][quantity] == max(way, target)
            assert row[quantity] <= row["asked"][quantity]
        assert 0 <= row["metric_raw"] <= 1
        found = row
    compressed = report["compressed"]
    assert (found["macs"], found["params"]) == (compressed["macs"], compressed["params"])
    assert (found["metric_raw"], found["metric"]) == (
        compressed["accuracy_raw"],
        compressed["accuracy"],
    )
    assert report["method"] == "hmc"
    assert report["budget"]["macs"]["met"]
    assert report["budget"]["params"]["met"]
    assert_columns_add_up(report)
    read = load_report(out)
    for shown in (as_text(layout(read)), page(read)):
        assert all(f"hmc {number}/3" in shown for number in (1, 2, 3))


def test_sensitivities_are_measured_anew(report: dict[str, Any]) -> None:
    grounds = report["evidence"]["steps"]
    # Those on the original another test's run may have left in the cache.
    assert all(one["method"]["forwards"]["run"] > 0 for one in grounds[1:])
    curves = [one["sensitivities"] for one in grounds]
    assert all(one != other for one, other in pairwise(curves))


def test_a_layer_that_was_cut_later_is_not_said_to_be_kept(report: dict[str, Any]) -> None:
    for row in report["layers"]:
        if row["before"]["macs"] and row["after"]["macs"] < row["before"]["macs"]:
            assert row["decision"]
            widths = [row[side]["out_channels"] for side in ("before", "after")]
            assert row["group"] != "keep" or widths[0] == widths[1], row["name"]


def test_one_plan_leads_from_the_original_to_the_weights(out: Path, report: dict[str, Any]) -> None:
    plan = load_plan(out)
    assert len({decision.kind for decision in plan.decisions}) >= 1
    loaded = load(out)
    given = load(out, model=build_model("lissom:digits_resnet"))
    assert weights_content(loaded) == weights_content(given)
    assert capture(loaded, (torch.zeros(1, 1, 8, 8),)).cost.macs == report["compressed"]["macs"]


def test_the_effective_recipe_says_how_many_iterations(out: Path) -> None:
    stage = yaml.safe_load((out / "recipe.yaml").read_text())["stages"][0]
    assert (stage["method"], stage["iterations"], stage["iteration_epochs"]) == ("hmc", 3, 1)


def test_a_killed_run_goes_on_in_the_same_iteration(
    out: Path, recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    command = ["compress", str(recipe_file), *ITERATED, "--out", str(folder)]
    ended = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *command], capture_output=True, env=os.environ, check=False
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    work = folder / ".work"
    assert sorted(path.name for path in work.iterdir() if path.is_dir()) == [
        "stage0-iteration1",
        "stage0-iteration2",
    ]
    assert run([*command, "--resume", "--set", "stages.0.iterations=2"]) == 2
    assert "stages.0.iterations = 3, now it is 2" in capsys.readouterr().err
    assert run([*command, "--resume"]) == 0
    told = capsys.readouterr().err
    assert "hmc, iteration 1 of 3: decided before" in told
    assert "hmc, iteration 2 of 3: decided before" in told
    assert told.count("sensitivities:") == 1
    assert (
        told.count("evaluate before recovery") == 2
    )  # of the second, which goes on, and the third
    for name in ("weights.safetensors", "plan.json"):
        assert (folder / name).read_bytes() == (out / name).read_bytes(), name


def test_a_dry_run_shows_the_iterations(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compress", str(recipe_file), *ITERATED, "--dry-run"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["hmc", "1/3", "params", "54.35k,", "macs", "1.453M", "1"] in lines
    assert ["hmc", "3/3", "params", "29.50k,", "macs", "651.2k", "2"] in lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["iterations=0"], "recipe.yaml:4: stages.0: iterations=0: expected 1"),
        (["iteration_epochs=2"], "recipe.yaml:4: stages.0: iteration_epochs=2: they follow each"),
        (["iterations=2", "iteration_epochs=-1"], "stages.0: iteration_epochs=-1: expected 0"),
        (["iterations=two"], "stages.0.iterations: should be a valid integer, got 'two'"),
        (["method=edp", "iterations=2"], "stages.0: iterations=2: edp goes its way in a training"),
    ],
)
def test_bad_values_give_one_clear_error(
    recipe_file: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = [part for one in arguments for part in ("--set", f"stages.0.{one}")]
    if "method=edp" in arguments:
        settings = ["--method", "edp", "--set", "stages.0.iterations=2"]
    assert run(["compress", str(recipe_file), *settings, "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "out").exists()
