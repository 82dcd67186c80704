"""A run that is killed and resumed ends as one that was not."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from flow_runs import Finished

from lissom.cli.app import run

# Ends the process, as a power cut would, when the training saves its state for the first time, or
# when the sensitivities do.
_KILLED_AT = {
    "recovery": "from lissom.train.checkpoint import Checkpoint as place",
    "sensitivity": "from lissom.sensitivity.cache import HarmCache as place",
}
_SCRIPT = """
import os, signal, sys
import torch
{where}
torch.set_num_threads(1)
save = place.save
def save_and_die(*arguments):
    save(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
place.save = save_and_die
from lissom.cli.app import run
sys.exit(run(sys.argv[1:]))
"""


def killed(at: str, recipe: Path, out: Path, cache: Path) -> None:
    script = _SCRIPT.format(where=_KILLED_AT[at])
    command = [sys.executable, "-c", script, "compress", str(recipe), "--out", str(out)]
    ended = subprocess.run(
        command, capture_output=True, env={**os.environ, "LISSOM_CACHE": str(cache)}, check=False
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()


@pytest.mark.parametrize("at", ["recovery", "sensitivity"])
def test_a_killed_run_ends_with_the_same_weights(
    at: str,
    finished: Finished,
    recipe_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, cache = tmp_path / "out", tmp_path / "cache"
    monkeypatch.setenv("LISSOM_CACHE", str(cache))
    killed(at, recipe_file, out, cache)
    assert [path.name for path in out.iterdir()] == [".work"]
    assert (out / ".work" / "stage0" / "training" / "train.safetensors").exists() == (
        at == "recovery"
    )
    command = ["compress", str(recipe_file), "--out", str(out)]
    assert run(command) == 2
    assert "interrupted run; continue it with --resume" in capsys.readouterr().err
    assert run([*command, "--resume", "--seed", "4"]) == 2
    assert "was started with seed = 3, now it is 4" in capsys.readouterr().err
    assert run([*command, "--resume", "--set", "recover.momentum=0.8"]) == 2
    assert "recover.momentum" in capsys.readouterr().err
    (out / ".plan.json.1.partial").write_text("what a kill while writing leaves")

    assert run([*command, "--resume"]) == 0
    assert sorted(path.name for path in out.iterdir()) == sorted(
        path.name for path in finished.out.iterdir()
    )
    for name in ("weights.safetensors", "plan.json"):
        assert (out / name).read_bytes() == (finished.out / name).read_bytes(), name


def test_there_must_be_something_to_resume(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert run(["compress", str(recipe_file), "--out", str(tmp_path), "--resume"]) == 2
    assert "holds no interrupted run, but mine.txt" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_damaged_notes_of_a_run_are_named(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = tmp_path / ".work" / "run.json"
    notes.parent.mkdir()
    notes.write_text("{")
    assert run(["compress", str(recipe_file), "--out", str(tmp_path), "--resume"]) == 2
    assert "run.json: can't be read" in capsys.readouterr().err
