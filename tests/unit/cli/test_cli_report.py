from pathlib import Path

import pytest

from lissom.artifacts import Artifacts, save
from lissom.cli.app import run
from lissom.report.terminal import as_text, layout
from report_samples import REPORT


def test_prints_an_old_report_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, Artifacts(report=REPORT))
    assert run(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out == as_text(layout(REPORT))


def test_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, Artifacts(report=REPORT))
    assert run(["report", str(tmp_path), "--html"]) == 0
    path = tmp_path / "report.html"
    assert capsys.readouterr().out == f"{path}\n"
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_folder_without_report_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["report", str(tmp_path)]) == 2
    assert "report.json: no such file" in capsys.readouterr().err


def test_figures_are_written_into_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, Artifacts(report=REPORT))
    assert run(["report", str(tmp_path), "--figures"]) == 0
    folder = tmp_path / "figures"
    assert sorted(folder.iterdir()) == [folder / "layers.svg", folder / "sensitivities.svg"]
    assert str(folder / "layers.svg") in capsys.readouterr().out
    assert not (tmp_path / "report.html").exists()
    assert run(["report", str(tmp_path), "--figures", "--html"]) == 0
    assert (tmp_path / "report.html").exists()
