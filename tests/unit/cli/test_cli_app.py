import subprocess
import sys
from importlib.metadata import version

import pytest

from lissom.cli import app
from lissom.cli.app import run
from lissom.errors import BudgetError


def test_help_does_not_load_torch() -> None:
    """A command line that takes seconds to print its help would be a nuisance."""
    code = (
        "import sys; from lissom.cli.app import run; run(['--help']); "
        "sys.exit('torch' in sys.modules or 'pydantic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("compress", "inspect", "bench", "report", "demo"):
        assert command in done.stdout


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"lissom {version('lissom')}\n"


@pytest.mark.parametrize("arguments", [["nonsense"], ["compress", "--epochs", "many"], ["bench"]])
def test_wrong_usage_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    assert "Error:" in capsys.readouterr().err


def test_bad_input_is_one_message_without_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def refuses() -> None:
        raise BudgetError("macs=0 is nothing")

    with pytest.raises(app.typer.Exit) as ended:
        app._explained(refuses)()
    assert ended.value.exit_code == 2
    assert capsys.readouterr().err == "error: macs=0 is nothing\n"


def test_an_interruption_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    def is_interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(app.typer.Exit) as ended:
        app._explained(is_interrupted)()
    assert ended.value.exit_code == 130
    assert "--resume" in capsys.readouterr().err


def test_mistakes_of_ours_keep_their_traceback() -> None:
    def is_broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        app._explained(is_broken)()
