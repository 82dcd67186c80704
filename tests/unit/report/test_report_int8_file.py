from dataclasses import replace

from lissom.report.html import page
from lissom.report.int8_file import int8_remark, int8_rows
from lissom.report.report import Report
from lissom.report.terminal import as_text, layout
from report_samples import REPORT

SECTION = {
    "metric": {"name": "accuracy", "value": 0.9, "unit": "fraction", "higher_is_better": True},
    "size_bytes": 12_345,
    "layers": {"conv1": "QLinearConv", "fc": "float"},
    "latency": {"median_ms": 0.25},
}


def test_the_file_stands_beside_the_networks() -> None:
    report = replace(REPORT, int8_file=SECTION)
    rows = list(int8_rows(report))
    assert [row[0] for row in rows] == [
        "int8 file size",
        "latency in int8, median",
        "accuracy in int8",
    ]
    assert rows[0][2] == "12.3 kB"
    assert rows[2][2] == "90.00 %"
    text, html = as_text(layout(report)), page(report)
    for row in rows:
        assert row[0] in text
        assert html.count(row[0]) == 2  # as a tile and in the table
    assert rows[0][3] in text
    assert '<div class="big">1.78× smaller</div>' in html
    assert "model-int8.onnx: 1 of 2 layers run in int8; in float: fc." in text
    assert Report.from_dict(report.to_dict()) == report


def test_why_layers_are_in_float_is_said_where_it_is_for_the_time() -> None:
    ratio = {"median": 0.73, "low": 0.72, "high": 0.74}
    report = replace(
        REPORT,
        int8_file=SECTION,
        methods={"int8": {"faster_in_float": {"layers": ["fc"], "ratio": ratio}}},
    )
    assert "in float: fc; 1 for time: 0.73 (0.72 to 0.74) of what all in int8 takes." in " ".join(
        as_text(layout(report)).split()
    )
    said = int8_remark(SECTION, {"faster_in_float": {"not_checked": "too busy"}})
    assert said.endswith("whether some are faster in float is not known: too busy")


def test_a_section_without_a_course_of_training_has_no_heading_of_its_own() -> None:
    settled = replace(REPORT, int8_file=SECTION, methods={"int8": {"estimator": "mse"}})
    assert "<h2>What int8 learned</h2>" not in page(settled)
    course = {"trajectory": [{"progress": 0.0, "macs": 1.0}, {"progress": 1.0, "macs": 0.5}]}
    assert "<h2>What int8 learned</h2>" in page(replace(settled, methods={"int8": course}))


def test_without_a_file_nothing_is_said() -> None:
    assert list(int8_rows(REPORT)) == []
    assert int8_remark({}, {}) == ""
    assert "int8" not in as_text(layout(REPORT))
    assert "int8_file" not in REPORT.to_dict()
