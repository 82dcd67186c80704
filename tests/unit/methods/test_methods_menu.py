import pytest

from lissom.methods.menu import (
    FAMILIES,
    RankOption,
    at_removed,
    low_rank_cost,
    rank_options,
    resolve,
    with_channels,
)
from lissom.plan.predict import LayerShape, dense_cost
from lissom.search.price import LowRank

CONV = LayerShape(32, 24, 9, 64, 64, bias=True, kernel_height=3, middle_positions=64)
LINEAR = LayerShape(32, 24, 1, 1, 1, bias=True, kernel_height=1, middle_positions=1)


def test_options_grow_cheaper_and_all_save():
    options = rank_options(CONV, FAMILIES, 1)
    prices = [low_rank_cost(CONV, resolve(option, CONV, 1)).macs for option in options]
    assert prices == sorted(prices, reverse=True)
    assert prices[0] < dense_cost(CONV).macs
    assert {option.family for option in options} == set(FAMILIES)
    assert len({resolve(option, CONV, 1) for option in options}) == len(options)


def test_families_decide_what_is_offered():
    assert {o.family for o in rank_options(CONV, ("tucker2",), 1)} == {"tucker2"}
    assert {o.family for o in rank_options(LINEAR, FAMILIES, 1)} == {"channel_svd"}
    assert rank_options(LINEAR, ("tucker2",), 1) == ()


def test_ranks_are_aligned():
    for option in rank_options(CONV, ("tucker2", "channel_svd"), 8):
        assert all(rank % 8 == 0 for rank in resolve(option, CONV, 8).ranks)


def test_what_saves_nothing_is_none():
    assert resolve(RankOption("tucker2", (15 / 16,) * 2), CONV, 1) is None
    assert resolve(RankOption("channel_svd", (1 / 16,)), with_channels(CONV, 1, 1), 1) is None
    assert resolve(RankOption("tucker2", (0.5,) * 2), CONV, 1) == LowRank("tucker2", (12, 16))


def test_products_per_filter_keep_the_alignment_of_the_outputs():
    options = rank_options(CONV, ("filter_cp",), 8)
    assert [resolve(option, CONV, 8).ranks for option in options] == [
        (7,),
        (6,),
        (5,),
        (4,),
        (3,),
        (2,),
        (1,),
    ]


@pytest.mark.parametrize(
    "family", ["tucker2", "channel_svd", "spatial_svd", "tensor_train", "sparse_plus_svd"]
)
@pytest.mark.parametrize("x", [0.25, 0.5, 0.75, 0.9])
def test_at_removed_removes_at_least_as_much_and_hardly_more(family, x):
    low_rank, removed = at_removed(CONV, family, x)
    assert removed == pytest.approx(1 - low_rank_cost(CONV, low_rank).macs / dense_cost(CONV).macs)
    assert x <= removed < x + 0.1


def test_products_per_filter_come_in_coarse_steps():
    low_rank, removed = at_removed(CONV, "filter_cp", 0.5)
    assert low_rank == LowRank("filter_cp", (3,))  # R (S + 6) / 9 S
    assert removed == pytest.approx(1 - 3 * 30 / (9 * 24))
    assert at_removed(CONV, "filter_cp", 0.9) is None


def test_at_removed_gives_none_where_rank_1_removes_less():
    assert at_removed(with_channels(CONV, 1, 2), "channel_svd", 0.9) is None
    assert at_removed(LINEAR, "tucker2", 0.5) is None
