import math

import pytest

from lissom.search.curves import HarmCurve


def test_points_and_lines_between_them():
    curve = HarmCurve.through([(0.5, 2.0), (0.25, 1.0), (0.75, 5.0)])
    assert curve.points == ((0.25, 1.0), (0.5, 2.0), (0.75, 5.0))
    assert curve(0) == curve(-1) == 0
    assert curve(0.125) == pytest.approx(0.5)
    assert curve(0.5) == pytest.approx(2.0)
    assert curve(0.625) == pytest.approx(3.5)


def test_neighbours_that_decrease_are_pooled():
    assert HarmCurve.through([(0.2, 3.0), (0.4, 1.0), (0.6, 5.0)]).points == (
        (0.2, 2.0),
        (0.4, 2.0),
        (0.6, 5.0),
    )
    pooled = HarmCurve.through([(0.2, 4.0), (0.4, 3.0), (0.6, 2.0)]).points
    assert [harm for _, harm in pooled] == [3.0, 3.0, 3.0]


def test_beyond_the_last_point_the_logarithm_goes_on():
    curve = HarmCurve.through([(0.5, 1.0), (0.75, math.e)])
    assert curve(1.0) == pytest.approx(math.e**2)
    single = HarmCurve.through([(0.5, 3.0)])
    assert single(0.75) == pytest.approx(3 * math.exp(0.5))
    assert math.isfinite(HarmCurve.through([(0.5, 1e-30), (0.5 + 1e-9, 1.0)])(1.0))


def test_several_points_at_one_fraction_count_by_their_mean():
    curve = HarmCurve.through([(0.5, 1.0), (0.5, 3.0)])
    assert curve.points == ((0.5, 2.0),)
    assert curve(0.9) > 2.0


def test_without_harm_or_points_nothing_harms():
    assert HarmCurve.through([])(0.5) == 0
    assert HarmCurve.through([(0.5, 0.0)])(0.9) == 0


def test_errors_lie_on_lines_and_grow_as_the_harm_does():
    curve = HarmCurve.through([(0.5, 2.0, 0.4), (0.25, 1.0, 0.1)])
    assert curve.errors == (0.1, 0.4)
    assert curve.error(0) == 0
    assert curve.error(0.125) == pytest.approx(0.05)
    assert curve.error(0.375) == pytest.approx(0.25)
    assert curve.error(0.9) / curve(0.9) == pytest.approx(0.2)


def test_pooled_points_share_their_mean_error():
    pooled = HarmCurve.through([(0.2, 4.0, 0.1), (0.4, 3.0, 0.2), (0.6, 2.0, 0.6)])
    assert pooled.errors == pytest.approx([0.3] * 3)
    assert HarmCurve.through([(0.5, 1.0, 0.2), (0.5, 3.0, 0.4)]).errors == pytest.approx([0.3])


def test_without_errors_none_are_told():
    assert HarmCurve.through([(0.5, 1.0)]).error(0.5) == 0
    assert HarmCurve(((0.5, 1.0),)).error(0.5) == 0
    assert HarmCurve.through([(0.5, 0.0, 0.0)]).error(0.9) == 0
