import os
import zlib

import pytest

from lissom.packed.text import code_text, read_text

NAMES = "\n".join(
    f"layer{stage}.{block}.{leaf}"
    for stage in range(1, 4)
    for block in range(9)
    for leaf in ("conv1.weight", "bn1.weight", "bn1.bias", "conv2.weight")
).encode()


@pytest.mark.parametrize("text", [b"", b"a", bytes(300), NAMES, os.urandom(200)])
def test_text_comes_back(text: bytes) -> None:
    assert read_text(code_text(text), len(text)) == text


def test_names_take_fewer_bytes_than_with_a_general_compressor() -> None:
    assert len(code_text(NAMES)) < len(zlib.compress(NAMES, 9))


def test_reading_never_fails() -> None:
    assert len(read_text(b"\xff" * 20, 100)) == 100
