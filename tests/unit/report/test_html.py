import dataclasses
from html.parser import HTMLParser

from lissom.report.html import page
from report_samples import LEARNED, REPORT

VOID = {"meta"}


class Outline(HTMLParser):
    """Notes what is opened, and that everything is closed again in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def outline(text: str) -> Outline:
    parser = Outline()
    parser.feed(text)
    assert parser.open == []
    return parser


def test_page_is_well_formed_and_needs_no_other_file() -> None:
    text = page(REPORT)
    found = outline(text)
    assert found.addresses == []
    assert "url(" not in text
    assert "http" not in text
    assert "prefers-color-scheme: dark" in text


def test_charts_show_every_layer_with_macs_and_every_unit() -> None:
    text = page(REPORT)
    convolutions = [row for row in REPORT.layers if row.before.cost.macs]
    units = {row.unit for row in REPORT.layers if row.sensitivities}
    # One field in the group map, and two bars in each of two cost charts.
    assert outline(text).seen.count("rect") == 5 * len(convolutions)
    assert outline(text).seen.count("polyline") == 2 * len(units)


def test_totals_are_exact() -> None:
    text = page(REPORT)
    for value in (5242, 2266, 5_161_120, 2_113_696, 81_920, 61_440):
        assert f"{value:,}" in text


def test_text_from_outside_is_escaped() -> None:
    odd = dataclasses.replace(
        REPORT, source="<script>alert(1)</script>", warnings=("a < b & c",), evidence={"<b>": 1}
    )
    text = page(odd)
    assert "<script" not in text
    assert "a &lt; b &amp; c" in text
    assert "<b>" not in text


def test_report_without_sensitivities_has_no_such_section() -> None:
    rows = tuple(dataclasses.replace(row, sensitivities={}) for row in REPORT.layers)
    assert "Sensitivity" not in page(dataclasses.replace(REPORT, layers=rows))


def test_the_course_of_a_training_is_drawn() -> None:
    text = page(LEARNED)
    assert "What edp learned" in text
    assert "Accuracy right before merging 0.9153, right after 0.9153." in text
    assert "Merged: block1.conv1." in text
    # MACs, parameters, target and lambda.
    assert outline(text).seen.count("polyline") == 4
    for name in ("MACs remaining", "parameters remaining", "target", "lambda"):
        assert f"</i>{name}</span>" in text


def test_the_course_of_a_file_is_drawn_in_bytes() -> None:
    records = [
        {"progress": 0.0, "bytes": 90_000.0, "target": 80_000.0, "lambda": 1e-4},
        {"progress": 1.0, "bytes": 43_000.0, "target": 43_155.0, "lambda": 2e-4},
    ]
    text = page(dataclasses.replace(LEARNED, methods={"ajc": {"trajectory": records}}))
    assert outline(text).seen.count("polyline") == 3
    for name in ("bytes of the file", "target", "lambda"):
        assert f"</i>{name}</span>" in text
    assert ">90 kB</text>" in text
    assert "remaining" not in text.lower()


def test_a_section_without_a_trajectory_is_only_told() -> None:
    bare = dataclasses.replace(LEARNED, methods={"edp": {"removed": ["a<b"]}})
    text = page(bare)
    assert outline(text).seen.count("polyline") == 0
    assert "Removed: a&lt;b." in text


def test_a_network_without_groups_has_no_map_of_them() -> None:
    text = page(LEARNED)
    convolutions = [row for row in LEARNED.layers if row.before.cost.macs]
    assert outline(text).seen.count("rect") == 4 * len(convolutions)
    assert "no group" not in text
    assert "</i>after</span>" in text
