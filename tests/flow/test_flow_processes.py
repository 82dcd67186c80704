"""``--devices 2`` starts its own second process, and both come to the same result."""

import os
import subprocess
import sys
from pathlib import Path

import flow_two_processes
import pytest
from flow_runs import Finished

from lissom.artifacts import load_plan, load_report
from lissom.cli.app import run
from lissom.pipeline import job


def launched(*arguments: str, cache: Path) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if "RANK" not in name}
    return subprocess.run(
        [sys.executable, flow_two_processes.__file__, "compress", *arguments],
        capture_output=True,
        text=True,
        timeout=900,
        env={**kept, "OMP_NUM_THREADS": "1", "LISSOM_CACHE": str(cache)},
        check=False,
    )


def test_two_processes_write_one_result(
    recipe_file: Path, finished: Finished, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    together = ("--devices", "2", "--accelerator", "cpu", "--strategy", "ddp")
    ended = launched(str(recipe_file), *together, "--out", str(out), cache=tmp_path / "cache")
    assert ended.returncode == 0, ended.stderr
    notes = [(tmp_path / f"process{number}.txt").read_text() for number in range(2)]
    assert notes[0] == notes[1]
    assert sorted(path.name for path in out.iterdir()) == sorted(
        path.name for path in finished.out.iterdir()
    )
    assert ended.stdout.count("compressed by hmc") == 1
    assert ended.stderr.count("evaluate original") == 1
    # What is decided before any training does not depend on the number of processes.
    assert load_plan(out) == load_plan(finished.out)
    ours, alone = (load_report(folder).compressed.metric for folder in (out, finished.out))
    assert ours is not None
    assert alone is not None
    assert ours.value == pytest.approx(alone.value, abs=0.05)  # of a network that is half trained


def test_bad_input_is_refused_before_any_process_is_started(
    recipe_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(job, "join", lambda settings: pytest.fail("processes were started"))
    arguments = ("--devices", "2", "--device", "cpu", "--budget", "macs=0.001")
    assert run(["compress", str(recipe_file), *arguments, "--out", str(tmp_path / "out")]) == 2
    assert "the smallest that hmc can reach" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
