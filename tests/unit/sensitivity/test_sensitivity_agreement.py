import pytest
from hypothesis import given
from hypothesis import strategies as st

from lissom.sensitivity.agreement import agreement, rank_correlation


def test_only_the_order_counts():
    assert rank_correlation([1, 2, 3], [0.1, 50, 51]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    # 1 - 6 sum d^2 / (n (n^2 - 1)) with d = (1, -1, 1, -1)
    assert rank_correlation([1, 2, 3, 4], [2, 1, 4, 3]) == pytest.approx(1 - 6 * 4 / 60)


def test_ties_share_their_mean_rank():
    # Ranks (0.5, 0.5, 2) and (0, 1, 2).
    assert rank_correlation([5, 5, 9], [1, 2, 3]) == pytest.approx(1.5 / (1.5 * 2) ** 0.5)


def test_where_nothing_varies_there_is_no_correlation():
    assert rank_correlation([1, 1], [1, 2]) is None
    assert rank_correlation([1], [2]) is None
    assert rank_correlation([], []) is None
    with pytest.raises(ValueError, match="2 values can't be compared with 1"):
        rank_correlation([1, 2], [1])


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=9))
def test_it_is_symmetric_bounded_and_knows_its_opposite(pairs):
    one, other = zip(*pairs, strict=True)
    found = rank_correlation(one, other)
    if found is None:
        return
    assert -1 - 1e-12 <= found <= 1 + 1e-12
    assert rank_correlation(other, one) == pytest.approx(found)
    assert rank_correlation([-x for x in one], other) == pytest.approx(-found)
    assert rank_correlation([x**3 + x for x in one], other) == pytest.approx(found)


def test_families_are_told_apart():
    found = agreement(["prune", "prune", "decompose"], [1, 2, 3], [2, 1, 3])
    assert found == {"all": pytest.approx(0.5), "decompose": None, "prune": pytest.approx(-1)}
