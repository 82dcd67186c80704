import dataclasses
import json

import pytest

from lissom.errors import LissomError
from lissom.plan.cost import Cost
from lissom.report.measured import Measured, MetricValue
from lissom.report.report import SCHEMA, Report
from report_samples import LEARNED, REPORT


def test_round_trip_is_equal() -> None:
    assert Report.from_dict(json.loads(json.dumps(REPORT.to_dict()))) == REPORT


def test_promised_fields_are_there() -> None:
    content = REPORT.to_dict()
    assert content["schema"] == SCHEMA
    for side in ("original", "compressed"):
        assert content[side].keys() >= {
            "params",
            "macs",
            "size_bytes",
            "latency_ms",
            "peak_memory_bytes",
            "metric",
            "accuracy",
        }
        assert set(content[side]["metric"]) == {"name", "value", "unit", "higher_is_better"}
    assert content["compressed"]["accuracy"] == 0.929
    assert content["compressed"]["peak_memory_bytes"] == 61_440
    assert content["compressed"]["accuracy_raw"] == 0.871
    assert content["budget"]["macs"]["met"] is True
    assert content["layers"][3]["after"]["rank_in"] == 6
    assert content["layers"][3]["after"]["macs"] == 491_520
    assert content["provenance"]["seed"] == 0


def test_costs_of_the_layers_add_up() -> None:
    for side, total in (("before", REPORT.original), ("after", REPORT.compressed)):
        costs = sum((getattr(row, side).cost for row in REPORT.layers), Cost())
        assert (costs.params, costs.macs) == (total.params, total.macs)


def test_nan_and_infinity_become_null() -> None:
    odd = dataclasses.replace(REPORT, evidence={"a": float("nan"), "b": [float("-inf"), 1.5]})
    text = json.dumps(odd.to_dict(), allow_nan=False)
    assert json.loads(text)["evidence"] == {"a": None, "b": [None, 1.5]}


def test_accuracy_stands_only_where_the_metric_is_accuracy() -> None:
    psnr = Measured(1, 1, metric=MetricValue("psnr", 31.0, "dB", True), metric_raw=29.0)
    assert psnr.accuracy is None
    content = dataclasses.replace(REPORT, compressed=psnr).to_dict()["compressed"]
    assert "accuracy" not in content
    assert content["metric_raw"] == 29.0


def test_fields_of_a_later_version_are_ignored() -> None:
    content = REPORT.to_dict() | {"schema": SCHEMA + 1, "colour": "blue"}
    content["layers"][0]["colour"] = "blue"
    assert Report.from_dict(content) == REPORT


def test_a_report_of_an_earlier_version_has_no_peak_memory() -> None:
    content = REPORT.to_dict()
    del content["original"]["peak_memory_bytes"]
    assert Report.from_dict(content).original.peak_memory_bytes is None


def test_a_missing_field_is_named() -> None:
    content = REPORT.to_dict()
    del content["layers"][2]["before"]["macs"]
    with pytest.raises(
        LissomError, match=r"report.layers\[2\].before: the field 'macs' is missing"
    ):
        Report.from_dict(content)


def test_a_section_of_the_wrong_type_is_named() -> None:
    with pytest.raises(LissomError, match=r"report.original: expected an object"):
        Report.from_dict(REPORT.to_dict() | {"original": 3})


def test_values_without_a_place_are_refused() -> None:
    with pytest.raises(TypeError, match="a set has no place in a report"):
        dataclasses.replace(REPORT, evidence={"a": {1}}).to_dict()


def test_warnings_are_added_to_a_copy() -> None:
    assert REPORT.with_warnings("more").warnings == (*REPORT.warnings, "more")
    assert len(REPORT.warnings) == 1


def test_what_a_method_learned_is_a_section_at_the_top() -> None:
    content = LEARNED.to_dict()
    assert content["edp"]["accuracy_before_merge"] == 0.9153
    assert content["method_sections"] == ["edp"]
    assert content.keys() - REPORT.to_dict().keys() == {"edp"}
    assert Report.from_dict(json.loads(json.dumps(content))) == LEARNED


@pytest.mark.parametrize("name", ["layers", "schema", "method_sections", "methods"])
def test_a_section_never_takes_the_place_of_a_field(name) -> None:
    with pytest.raises(ValueError, match=f"{name} is a field of the report"):
        dataclasses.replace(REPORT, methods={name: {}})


def test_a_section_that_is_announced_but_missing_is_named() -> None:
    content = LEARNED.to_dict()
    del content["edp"]
    with pytest.raises(LissomError, match="report: the field 'edp' is missing"):
        Report.from_dict(content)
