import re

import pytest

from lissom.report.charts import cost_bars, course, harm_curves, harm_range
from lissom.report.figures import share
from report_samples import CURVES, LAYERS


def test_heights_are_proportional_to_costs() -> None:
    drawn = cost_bars(LAYERS[2:4], "MACs", lambda cost: cost.macs)
    heights = [float(value) for value in re.findall(r'height="([\d.]+)"', drawn)]
    before, half, same, small = heights
    assert before == same
    assert half == pytest.approx(before / 2, abs=0.01)
    assert small == pytest.approx(before * 491_520 / 2_359_296, abs=0.01)


def test_range_of_harms_covers_all_in_powers_of_ten() -> None:
    assert harm_range([CURVES]) == pytest.approx((1e-3, 1.0))
    assert harm_range([{"prune": ((0.5, None), (0.75, 0.0))}]) == pytest.approx((1e-3, 1.0))


def test_more_harm_is_drawn_higher_and_missing_points_are_left_out() -> None:
    drawn = harm_curves({"prune": ((0.25, 0.01), (0.5, None), (0.75, 0.1))}, (1e-3, 1.0))
    points = re.search(r'points="([^"]*)"', drawn)
    assert points is not None
    (x0, y0), (x1, y1) = (map(float, spot.split(",")) for spot in points[1].split())
    assert x0 < x1
    assert y0 > y1


def test_zero_harm_lies_on_the_floor() -> None:
    drawn = harm_curves({"prune": ((0.25, 0.0), (0.5, 1e-3))}, (1e-3, 1.0))
    heights = {spot.split(",")[1] for spot in re.search(r'points="([^"]*)"', drawn)[1].split()}
    assert len(heights) == 1


def spots(drawn: str) -> list[list[tuple[float, float]]]:
    """Give the points of every line."""
    return [
        [(float(x), float(y)) for x, y in (spot.split(",") for spot in line.split())]
        for line in re.findall(r'points="([^"]*)"', drawn)
    ]


def test_a_course_is_true_to_scale_and_leaves_out_what_is_missing() -> None:
    records = [
        {"progress": 0.0, "macs": 1.0, "target": 0.5},
        {"progress": 0.5, "macs": None, "target": 0.5},
        {"macs": 7.0},
        {"progress": 1.0, "macs": 0.25},
    ]
    series = {"macs": "decompose", "params": "both", "target": "keep"}
    drawn = course(records, series, "remaining", share)
    macs, target = spots(drawn)
    assert [x for x, _ in macs] == [52, 1000]
    assert [y for _, y in macs] == [20, 20 + 150 * 0.75]
    assert target == [(52, 95), (526, 95)]
    assert re.findall(r'class="line-(\w+)"', drawn) == ["decompose", "keep"]
    assert "100 %" in drawn


def test_a_course_of_nothing_or_of_zeros_is_not_drawn() -> None:
    for records in ([], [{"progress": 0.5, "lambda": 0.0}], [{"progress": 0.5, "lambda": None}]):
        assert course(records, {"lambda": "prune"}, "lambda", str) == ""
