"""The code in README and docs runs; its commands exist and take these options."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from lissom.cli.app import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(*languages: str) -> list[object]:
    found = []
    for page in PAGES:
        for number, (language, text) in enumerate(_BLOCK.findall(page.read_text())):
            if language in languages:
                found.append(pytest.param(text, id=f"{page.relative_to(ROOT)}-{number}"))
    return found


def execute(text: str) -> None:
    """Run a block of Python; one that begins with "# not run: why" must at least compile."""
    code = compile(text, "<docs>", "exec")
    if not text.startswith("# not run: "):
        exec(code, {"__name__": "__docs__"})


def parse(command: str) -> None:
    """Parse one command line as lissom would, without running it."""
    program, *arguments = shlex.split(command, comments=True)
    assert program == "lissom"
    group = typer.main.get_command(app)
    with group.make_context("lissom", arguments, resilient_parsing=False) as context:
        name, found, rest = group.resolve_command(context, arguments)
    assert found is not None
    found.make_context(name, rest)


def commands(text: str) -> list[str]:
    joined = text.replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.startswith("lissom ")]


@pytest.mark.parametrize("text", blocks("python"))
def test_python_runs(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    execute(text)


@pytest.mark.parametrize("text", blocks("sh", "bash", "shell", "console"))
def test_commands_parse(text: str) -> None:
    for command in commands(text):
        parse(command)


def test_the_readme_shows_commands() -> None:
    shell = [text for kind, text in _BLOCK.findall(PAGES[0].read_text()) if kind == "sh"]
    assert {command.split()[1] for text in shell for command in commands(text)} >= {
        "compress",
        "inspect",
    }


def test_these_oracles_can_fail() -> None:
    with pytest.raises(NameError):
        execute("not_there()\n")
    with pytest.raises(SyntaxError):
        execute("# not run: needs data\ndef\n")
    for wrong in ("lissom bech runs/a", "lissom bench runs/a --bach 3", "lissom bench"):
        with pytest.raises(Exception, match=r"No such|[Mm]issing"):
            parse(wrong)
