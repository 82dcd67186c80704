import json
from collections.abc import Callable

import pytest
from arithmetic import check_sums

from lissom.cli.app import run

COMMAND = ("inspect", "--model", "lissom:resnet8", "--input", "1x3x32x32")


def test_inspect_reads_as_committed(
    golden: Callable[[str, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(COMMAND) == 0
    text = capsys.readouterr().out
    golden(text, "inspect.txt")


def test_inspect_as_json_names_every_layer(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*COMMAND, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sum(layer["params"] for layer in found["layers"]) == found["params"]
    assert sum(layer["macs"] for layer in found["layers"]) == found["macs"]
    for layer in found["layers"]:
        for action in ("prune", "decompose", "quantize"):
            offer = layer[action]
            assert offer["offered"] or offer["reason"]


def test_printed_columns_add_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(COMMAND) == 0
    assert check_sums(capsys.readouterr().out, columns=2) == 17


def test_a_wrong_cell_is_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(COMMAND) == 0
    text = capsys.readouterr().out.replace("18.50k", "19.50k")
    with pytest.raises(AssertionError, match="rows add up to"):
        check_sums(text, columns=2)
