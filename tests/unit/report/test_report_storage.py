import dataclasses
import json

from lissom.report.html import page
from lissom.report.report import Report
from lissom.report.storage import storage_rows
from lissom.report.terminal import WIDTH, as_text, layout
from report_samples import LAYERS, PACKED, REPORT


def rows_of(storage: dict) -> dict[str, tuple[str, str]]:
    return {name.strip(): (size, ratio) for name, size, ratio in storage_rows(storage)}


def test_every_ratio_is_named_with_its_bytes() -> None:
    assert rows_of(PACKED.storage) == {
        "original as float32": ("20,968", ""),
        "R1: weights, places not counted": ("300", "69.78×"),
        "R2: weights and run lengths": ("524", "40.00×"),
        "R3: entropy of each layer's levels": ("419", "50.00×"),
        "R4: the file itself, all in it": ("1,048", "20.01×"),
        "levels": ("400", ""),
        "of which mask, estimated": ("210", ""),
        "scales": ("20", ""),
        "batch norms and biases": ("128", ""),
        "header and plan": ("500", ""),
        "original as float32, LZMA": ("19,000", "1.10×"),
        "original as int8 ONNX": ("10,484", "2.00×"),
    }


def test_nncodec_has_bytes_but_no_ratio_as_it_codes_levels_alone() -> None:
    baselines = PACKED.storage["baselines"] | {"levels_nncodec": 410}
    rows = rows_of(PACKED.storage | {"baselines": baselines})
    assert rows["the same levels, nncodec"] == ("410", "")


def test_nothing_over_nothing_is_a_dash() -> None:
    ratios = PACKED.storage["ratios"] | {"r1_no_index": None}
    assert rows_of(PACKED.storage | {"ratios": ratios})["R1: weights, places not counted"][1] == "–"


def test_the_section_stands_only_where_a_packed_file_is_written() -> None:
    assert "storage" not in REPORT.to_dict()
    content = json.loads(json.dumps(PACKED.to_dict()))
    assert content["storage"] == PACKED.storage
    assert content["layers"][0]["after"]["weight_bits"] == 3
    assert content["layers"][0]["after"]["bits"] == 32 * 432
    assert content["layers"][0]["after"]["density"] == 0.25
    assert content["layers"][0]["before"]["weight_bits"] is None
    assert Report.from_dict(content) == PACKED


def test_every_view_shows_it() -> None:
    for text in (as_text(layout(PACKED)), page(PACKED)):
        assert "Storage" in text
        assert "R4: the file itself, all in it" in text
        assert "20.01×" in text
        assert "Only the file is claimed" in text
        assert "density" in text
        assert "25 %" in text
    for text in (as_text(layout(REPORT)), page(REPORT)):
        assert "Storage" not in text
        assert "density" not in text


def test_columns_that_say_nothing_make_room() -> None:
    assert "harm\n" not in as_text(layout(PACKED)).replace(" ", "")
    layers = tuple(
        dataclasses.replace(row, after=dataclasses.replace(row.after, weight_bits=3, density=0.25))
        for row in LAYERS
    )
    text = as_text(layout(dataclasses.replace(PACKED, layers=layers)))
    both = text[text.index("Layers (") :]
    assert "decomp." in both
    assert "density" in both
    assert max(len(line) for line in text.splitlines()) <= WIDTH
    assert "…" not in text
