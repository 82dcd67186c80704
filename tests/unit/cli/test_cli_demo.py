import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lissom.cli.app import run
from report_samples import REPORT


@pytest.fixture
def folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """Note the folders that the demo is asked to write into, and make them."""
    noted: list[Path] = []

    def run_demo(method: str, out: Path, *, say: Any) -> SimpleNamespace:
        say(method)
        out.mkdir()
        noted.append(out)
        return SimpleNamespace(report=REPORT)

    demo = SimpleNamespace(run_demo=run_demo)
    monkeypatch.setitem(sys.modules, "lissom.pipeline.demo", demo)
    monkeypatch.chdir(tmp_path)
    return noted


def test_each_demo_has_a_folder_of_its_own(folders: list[Path]) -> None:
    assert run(["demo"]) == 0
    assert run(["demo"]) == 0
    assert folders == [Path("lissom-demo"), Path("lissom-demo-2")]


def test_method_and_folder_are_passed_on(
    folders: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["demo", "--method", "ahc", "--out", "there"]) == 0
    assert folders == [Path("there")]
    printed = capsys.readouterr()
    assert printed.err == "ahc\n"
    assert printed.out.endswith("Written: there\n")
