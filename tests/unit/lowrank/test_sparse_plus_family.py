from __future__ import annotations

import pytest
import torch

from lissom.lowrank.families import family_named
from lissom.plan.predict import LayerShape, dense_cost

NARROW = LayerShape(16, 16, 9, 64, 64, bias=False, kernel_height=3, middle_positions=64)
WIDE = LayerShape(256, 128, 9, 64, 64, bias=False, kernel_height=3, middle_positions=64)
SINGLE = LayerShape(16, 1, 9, 64, 64, bias=False, kernel_height=3, middle_positions=64)
FAMILY = family_named("sparse_plus_svd")


def test_the_rank_follows_the_channels_that_are_left() -> None:
    assert FAMILY.full_ranks(WIDE) == (127, 256)
    assert FAMILY.settle(WIDE, (127, 256)) == (127, 9)
    assert FAMILY.relative(WIDE, 1.0) == (127, 9)
    assert FAMILY.relative(WIDE, 0.25) == (32, 64)


def test_break_even_by_hand() -> None:
    # 144 c + r (9 (16 - c) + 16) < 2304 in equal proportion: (8, 9) costs 1944, (9, 10) 2086,
    # (9, 9) 1997, (10, 10) 2140, (10, 11) 2210, (11, 11) 2255, (11, 12) 2316.
    assert FAMILY.break_even(NARROW, "macs") == (11, 11)


@pytest.mark.parametrize(
    ("shape", "round_to", "steps"),
    [(NARROW, "auto", (1, 1)), (WIDE, "auto", (8, 16)), (NARROW, 8, (8, 8)), (WIDE, 4, (4, 4))],
)
def test_auto_leaves_narrow_layers_a_choice(shape, round_to, steps) -> None:
    counts = FAMILY.admissible(shape, round_to)
    assert tuple(ranks[0] for ranks in counts) == steps
    assert tuple(ranks[1] - ranks[0] for ranks in counts[:1]) in {(steps[0],), (7,)}
    assert tuple(ranks[-1] for ranks in counts) == FAMILY.full_ranks(shape)
    for share in (0.1, 0.3, 0.6):
        ranks = FAMILY.relative(shape, share, round_to)
        assert all(rank in allowed for rank, allowed in zip(ranks, counts, strict=True))


def test_one_channel_can_not_be_shared() -> None:
    assert not FAMILY.gains(SINGLE)
    assert FAMILY.within(SINGLE, 10**9, "macs") is None
    assert FAMILY.best_within(SINGLE, 10**9, "macs", torch.randn(16, 1, 3, 3)) is None
    assert not FAMILY.saves(SINGLE, FAMILY.relative(SINGLE, 0.5))


@pytest.mark.parametrize("unit", ["macs", "params"])
def test_the_joint_search_keeps_the_limit_and_errs_less(unit) -> None:
    """Two channels that resemble no other: equal proportions take far more into S."""
    torch.manual_seed(0)
    weight = torch.einsum("tr,rsij->tsij", torch.randn(16, 3), torch.randn(3, 16, 3, 3))
    weight[:, [3, 11]] = torch.randn(16, 2, 3, 3)
    weight += 0.05 * torch.randn(16, 16, 3, 3)
    limit = int(0.3 * getattr(dense_cost(NARROW), unit))
    ranks = FAMILY.best_within(NARROW, limit, unit, weight)
    plain = FAMILY.within(NARROW, limit, unit)
    assert ranks is not None
    assert plain is not None
    assert getattr(FAMILY.cost(NARROW, ranks), unit) <= limit
    errors = [
        float((weight - FAMILY.compose(FAMILY.factors(weight, r))).norm()) for r in (ranks, plain)
    ]
    assert errors[0] < 0.8 * errors[1]
    assert FAMILY.best_within(NARROW, 10, unit, weight) is None
    predicted = FAMILY.predicted_within(NARROW, [10, limit, 2 * limit], unit, weight)
    assert predicted[0] is None
    assert getattr(FAMILY.cost(NARROW, predicted[1]), unit) <= limit
    assert predicted[2] > predicted[1]
