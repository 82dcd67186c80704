import dataclasses
import inspect
import subprocess
import sys

import pytest

import lissom


def test_names_are_sorted_and_few() -> None:
    assert lissom.__all__ == sorted(lissom.__all__)
    assert len(lissom.__all__) == len(set(lissom.__all__)) <= 25
    assert lissom.__all__ == sorted(lissom._HOMES)


@pytest.mark.parametrize("name", lissom.__all__)
def test_a_name_can_be_imported_and_is_explained(name: str) -> None:
    value = getattr(lissom, name)
    assert callable(value)
    text = inspect.getdoc(value) or ""
    # A dataclass without a docstring gets its signature for one.
    assert text
    assert not text.startswith(f"{name}(")
    if not inspect.isclass(value):
        assert "Args:" in text
    elif dataclasses.is_dataclass(value):
        assert "Attributes:" in text


def test_dir_lists_what_there_is() -> None:
    assert dir(lissom) == sorted([*lissom.__all__, "__version__"])


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'lissom' has no attribute 'compres'"):
        _ = lissom.compres


def test_the_command_line_starts_without_torch() -> None:
    code = (
        "import sys; from lissom.cli.app import run; run(['--help']); print('torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "compress" in ended.stdout
    assert ended.stdout.endswith("False\n")
