"""The charts as files: whole, free of what only browsers know, and complete."""

import dataclasses
import itertools
import re
from xml.etree import ElementTree

from lissom.report.drawings import drawings
from report_samples import LAYERS, REPORT

SVG = "{http://www.w3.org/2000/svg}"


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text.encode())


def test_every_file_is_whole_and_has_its_colours_in_it() -> None:
    files = drawings(REPORT)
    assert set(files) == {"layers.svg", "sensitivities.svg"}
    for text in files.values():
        root = parsed(text)
        assert root.tag == f"{SVG}svg"
        assert "var(" not in text
        style = root.find(f"{SVG}style").text
        used = {name for e in root.iter() for name in e.get("class", "").split()}
        known = set(re.findall(r"\.([a-z-]+)", style))
        assert used <= known
        assert "#dd7a1f" in style


def test_layers_have_a_bar_before_and_after_in_each_unit() -> None:
    root = parsed(drawings(REPORT)["layers.svg"])
    computing = sum(1 for row in LAYERS if row.before.cost.macs)
    bars = [e for e in root.iter(f"{SVG}rect") if e.get("class") == "ghost"]
    assert len(bars) == 2 * computing + 1  # MACs, parameters, and one in the legend
    height = float(root.get("height"))
    bottoms = [float(e.get("y")) + float(e.get("height")) for e in root if e.tag == f"{SVG}svg"]
    assert height - 40 == max(bottoms)
    places = [(float(e.get("y")), float(e.get("height"))) for e in root if e.tag == f"{SVG}svg"]
    assert all(y + tall <= below for (y, tall), (below, _) in itertools.pairwise(places))


def test_every_unit_has_its_field_and_name() -> None:
    odd = dataclasses.replace(LAYERS[0], unit="a<b>&c")
    many = tuple(dataclasses.replace(LAYERS[2], name=f"conv{i}", unit=f"unit{i}") for i in range(7))
    root = parsed(drawings(dataclasses.replace(REPORT, layers=(odd, *many)))["sensitivities.svg"])
    fields = [e for e in root if e.tag == f"{SVG}svg"]
    assert len(fields) == 8
    assert len({(e.get("x"), e.get("y")) for e in fields}) == 8
    assert len({e.get("y") for e in fields}) == 2  # six in a row
    names = {e.text for e in root.iter(f"{SVG}text")}
    assert {"a<b>&c", *(f"unit{i}" for i in range(7))} <= names


def test_without_sensitivities_there_is_one_file() -> None:
    plain = tuple(dataclasses.replace(row, sensitivities={}, group="") for row in LAYERS)
    files = drawings(dataclasses.replace(REPORT, layers=plain))
    assert set(files) == {"layers.svg"}
    assert "group" not in {e.text for e in parsed(files["layers.svg"]).iter(f"{SVG}text")}
