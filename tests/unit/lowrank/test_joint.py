from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from lissom.lowrank.factorize import compose_tucker2, tucker2
from lissom.lowrank.families import family_named
from lissom.lowrank.joint import best_tucker2_ranks
from lissom.plan.predict import LayerShape, dense_cost

SHAPE = LayerShape(10, 8, 9, 36, 36, bias=False)


def narrow_inputs() -> Tensor:
    """Give a kernel whose inputs have three directions and whose outputs have all."""
    torch.manual_seed(0)
    weight = torch.einsum("tbij,bs->tsij", torch.randn(10, 3, 3, 3), torch.randn(3, 8))
    return weight + 0.05 * torch.randn(10, 8, 3, 3)


def error(weight: Tensor, rank_in: int, rank_out: int, metric: Tensor) -> float:
    covariance = metric if metric.shape[0] > 1 else None
    dense = compose_tucker2(*tucker2(weight, rank_out, rank_in, covariance=covariance))
    change = (weight - dense).flatten(1)
    return float((change @ metric * change).sum() if covariance is not None else change.norm() ** 2)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("whiten", [False, True])
def test_no_pair_that_fits_errs_less(share, whiten) -> None:
    weight = narrow_inputs()
    samples = torch.randn(300, 72) * torch.linspace(2, 0.2, 72)
    covariance = samples.T @ samples / 300 if whiten else None
    family, limit = family_named("tucker2"), int(share * dense_cost(SHAPE).macs)

    def fits(rank_in: int, rank_out: int) -> bool:
        return family.cost(SHAPE, (rank_in, rank_out)).macs <= limit

    found = best_tucker2_ranks(weight, fits, covariance=covariance)
    assert found is not None
    assert fits(*found)
    metric = torch.ones(1, 1) if covariance is None else covariance
    pairs = [pair for pair in itertools.product(range(1, 9), range(1, 11)) if fits(*pair)]
    best = min(error(weight, *pair, metric) for pair in pairs)
    # The prediction ranks pairs by one HOSVD; a few per cent may separate it from the truth.
    assert error(weight, *found, metric) <= 1.05 * best
    assert family.best_within(SHAPE, limit, "macs", weight, covariance) == found


def test_it_beats_equal_fractions_where_the_modes_differ() -> None:
    weight = narrow_inputs()
    family, limit = family_named("tucker2"), int(0.5 * dense_cost(SHAPE).macs)
    equal = family.within(SHAPE, limit, "macs")
    joint = family.best_within(SHAPE, limit, "macs", weight)
    assert joint is not None
    assert equal is not None
    assert joint[0] == 3
    plain = torch.ones(1, 1)
    assert error(weight, *joint, plain) < 0.3 * error(weight, *equal, plain)


def test_nothing_fits() -> None:
    assert best_tucker2_ranks(narrow_inputs(), lambda *_: False) is None


def test_families_of_one_rank_have_no_choice() -> None:
    family, limit = family_named("channel_svd"), dense_cost(SHAPE).macs // 2
    found = family.best_within(SHAPE, limit, "macs", narrow_inputs())
    assert found == family.within(SHAPE, limit, "macs")


@pytest.mark.parametrize("whiten", [False, True])
def test_predictions_for_several_limits_are_close_to_the_best(whiten) -> None:
    weight = narrow_inputs()
    samples = torch.randn(300, 72) * torch.linspace(2, 0.2, 72)
    covariance = samples.T @ samples / 300 if whiten else None
    family, dense = family_named("tucker2"), dense_cost(SHAPE).macs
    limits = [int(share * dense) for share in (0.7, 0.5, 0.3)]
    found = family.predicted_within(SHAPE, [*limits, 0], "macs", weight, covariance)
    assert found is not None
    assert found[3] is None
    metric = torch.ones(1, 1) if covariance is None else covariance
    for limit, ranks in zip(limits, found, strict=False):
        assert ranks is not None
        assert family.cost(SHAPE, ranks).macs <= limit
        best = family.best_within(SHAPE, limit, "macs", weight, covariance)
        equal = family.within(SHAPE, limit, "macs")
        assert error(weight, *ranks, metric) <= 1.05 * error(weight, *best, metric)
        assert error(weight, *ranks, metric) < error(weight, *equal, metric)


@pytest.mark.parametrize("name", ["channel_svd", "spatial_svd", "filter_cp", "tensor_train"])
def test_others_predict_nothing(name) -> None:
    assert family_named(name).predicted_within(SHAPE, [1000], "macs", narrow_inputs()) is None
