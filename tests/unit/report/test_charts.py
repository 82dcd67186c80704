import re

import pytest

from lissom.report.charts import cost_bars, harm_curves, harm_range
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
