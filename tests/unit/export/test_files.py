import errno
import os
from pathlib import Path

import pytest

from lissom.errors import LissomError
from lissom.export import files
from lissom.export.files import write_files


def test_writes_every_file(tmp_path: Path) -> None:
    write_files({tmp_path / "new" / "a": b"1", tmp_path / "b": b"22"})
    assert (tmp_path / "new" / "a").read_bytes() == b"1"
    assert (tmp_path / "b").read_bytes() == b"22"


def test_leaves_no_temporary_files(tmp_path: Path) -> None:
    write_files({tmp_path / "a": b"1"})
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_leaves_the_old_files_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files({tmp_path / "a": b"old", tmp_path / "b": b"old"})
    whole = files._write

    def half(path: Path, content: bytes) -> None:
        if "b" in path.name.split(".")[1]:
            path.write_bytes(content[:1])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(path, content)

    monkeypatch.setattr(files, "_write", half)
    with pytest.raises(
        LissomError, match=r"b: could not write 1,234 bytes \(No space left.*nothing"
    ):
        write_files({tmp_path / "a": b"new", tmp_path / "b": b"x" * 1234})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "a": b"old",
        "b": b"old",
    }


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("I am a file")
    with pytest.raises(LissomError, match=r"out/a: could not write"):
        write_files({tmp_path / "out" / "a": b"1"})
