from pathlib import Path

import pytest

from lissom.errors import LissomError
from lissom.measure.size import file_bytes


def test_counts_bytes(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    assert file_bytes(tmp_path / "f") == 5


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LissomError, match="gone: can't read its size"):
        file_bytes(tmp_path / "gone")
