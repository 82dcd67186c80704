import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lissom.quantization.allocate import Point, cheapest, convex_hull

# Small whole numbers, so that sums are exact and ties do occur.
POINTS = st.lists(
    st.builds(Point, st.just(1.0), st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=5
)
LAYERS = st.lists(POINTS, min_size=1, max_size=4).map(
    lambda each: {f"layer{i}": of for i, of in enumerate(each)}
)


def totals(layers, choice):
    taken = [layers[name][index] for name, index in choice.items()]
    return sum(point.bits for point in taken), sum(point.harm for point in taken)


def every(layers):
    ranges = (range(len(points)) for points in layers.values())
    for indices in itertools.product(*ranges):
        yield totals(layers, dict(zip(layers, indices, strict=True)))


def beaten(layers, found):
    """Whether some choice with no more bits harms less."""
    return any(bits <= found[0] and harm < found[1] for bits, harm in every(layers))


@given(POINTS, st.integers(0, 40))
def test_the_hull_holds_a_best_point_for_every_price(points, tenths):
    price = tenths / 8  # exact in binary
    best = min(point.harm + price * point.bits for point in points)
    hull = [points[index] for index in convex_hull(points)]
    assert min(point.harm + price * point.bits for point in hull) == best


@given(POINTS)
def test_the_hull_falls_in_bits_and_steepens_in_harm(points):
    hull = [points[index] for index in convex_hull(points)]
    slopes = [
        (after.harm - before.harm) / (before.bits - after.bits)
        for before, after in itertools.pairwise(hull)
    ]
    assert all(slope > 0 for slope in slopes)
    assert all(before < after for before, after in itertools.pairwise(slopes))


@given(LAYERS, st.integers(0, 50))
def test_a_choice_fits_where_any_does_and_is_near_the_best(layers, bits):
    found = totals(layers, cheapest(layers, bits))
    if found[0] > bits:
        assert found[0] == min(total for total, _harm in every(layers))
        return
    best = min(harm for total, harm in every(layers) if total <= bits)
    # A walk down the hulls is short of the best by less than its last move.
    steps = [
        points[after].harm - points[before].harm
        for points in layers.values()
        for before, after in itertools.pairwise(convex_hull(points))
    ]
    assert best <= found[1] <= best + max(steps, default=0)


@given(LAYERS, st.integers(0, 100))
def test_where_the_hulls_meet_the_bits_nothing_is_better(layers, tenths):
    price = (tenths + 0.5) / 8  # of no tie between whole numbers' slopes but by chance
    indices = {
        name: min(range(len(of)), key=lambda i: (of[i].harm + price * of[i].bits, of[i].harm))
        for name, of in layers.items()
    }
    bits, _harm = totals(layers, indices)
    assert not beaten(layers, totals(layers, cheapest(layers, bits)))


def test_what_is_left_is_spent():
    layers = {
        "large": [Point(1, 100, 0), Point(2, 10, 1)],
        "small": [Point(1, 20, 0), Point(2, 15, 5)],
    }
    # Large goes first (1 / 90 per bit), and small need not.
    assert cheapest(layers, 115) == {"large": 1, "small": 0}
    # Above the hull, but it fits where the hull's better end does not.
    layers["large"].append(Point(3, 60, 0.9))
    assert cheapest(layers, 115) == {"large": 2, "small": 0}


def test_the_oracle_notices_a_worse_choice():
    layers = {"a": [Point(1, 5, 0), Point(2, 1, 1)], "b": [Point(1, 5, 0), Point(2, 1, 9)]}
    assert beaten(layers, totals(layers, {"a": 0, "b": 1}))
    assert not beaten(layers, totals(layers, cheapest(layers, 6)))


@pytest.mark.parametrize(("bits", "expected"), [(0, 1), (4.9, 1), (5, 0)])
def test_one_layer_takes_what_fits(bits, expected):
    assert cheapest({"only": [Point(1, 5, 0), Point(2, 1, 1)]}, bits) == {"only": expected}
