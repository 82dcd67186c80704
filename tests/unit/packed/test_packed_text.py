import os
import re
import zlib
from pathlib import Path

import pytest

from lissom.packed.known_text import KNOWN
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


def test_the_known_text_is_that_of_the_page() -> None:
    page = (Path(__file__).parents[3] / "docs" / "packed-format.md").read_text()
    *_, text, table = re.findall(r"^```text\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert text.encode() + bytes.fromhex("".join(table.split())) == KNOWN


def test_a_plan_of_a_folded_network_is_short() -> None:
    layers = [
        f"layer{stage}.{block}.conv{i}" for stage in (1, 2) for block in (0, 1) for i in (1, 2)
    ]
    lines = [
        f'{{"kind":"fold_batch_norm","layer":"{layer}","norm":"{layer.replace("conv", "bn")}"}},\n'
        for layer in layers
    ]
    assert len(code_text("".join(lines).encode())) < 5 * len(lines)
