from __future__ import annotations

import pytest
import tensorly
import torch
from tensorly.decomposition import tensor_train as tensorly_tensor_train
from torch import Tensor, nn

from lissom.lowrank.families import BY_NAME, family_named
from lissom.lowrank.rules import energy_ranks, evbmf_ranks
from lissom.plan.plan import decision_kinds
from lissom.plan.predict import LayerShape, dense_cost

CONV = LayerShape(64, 32, 9, 49, 16, bias=True, kernel_height=3, middle_positions=28)
POINTWISE = LayerShape(8, 6, 1, 16, 16, bias=True, kernel_height=1, middle_positions=16)
SEVERAL = ("tucker2", "tensor_train", "sparse_plus_svd")
# Their widths are multiples of the outputs, or share those of the layer.
FINER = ("filter_cp", "sparse_plus_svd")


@pytest.fixture
def weight() -> Tensor:
    """Give a kernel of ranks 5 (inputs), 6 (outputs) and few products, under little noise."""
    torch.manual_seed(0)
    core = torch.randn(6, 5, 3, 3)
    clean = torch.einsum("ta,abij,bs->tsij", torch.randn(64, 6), core, torch.randn(5, 32))
    return clean / clean.std() + 0.05 * torch.randn(64, 32, 3, 3)


def output_error(weight: Tensor, approximation: Tensor, covariance: Tensor) -> float:
    change = (weight - approximation).flatten(1).double()
    return float((change @ covariance.double() * change).sum())


def correlated(channels: int) -> Tensor:
    torch.manual_seed(1)
    places = torch.arange(9)
    apart = (places[:, None] // 3 - places // 3).abs() + (places[:, None] % 3 - places % 3).abs()
    mixed = torch.randn(3000, channels, 9) @ torch.linalg.cholesky(0.8**apart).T
    scale = torch.randn(channels, channels) * torch.linspace(1, 0.1, channels)
    samples = torch.einsum("nsk,sr->nrk", mixed, scale).relu().flatten(1)
    return samples.T @ samples / 3000


def test_every_family_is_a_kind_of_decision() -> None:
    for name, family in BY_NAME.items():
        decision = family.decision("a", tuple(1 for _ in family.full_ranks(CONV)))
        assert decision.kind == family.name == name
        assert type(decision) is decision_kinds()[name]
    with pytest.raises(ValueError, match=r"family 'cp': expected one of tucker2, channel_svd"):
        family_named("cp")


def test_full_ranks_by_hand() -> None:
    full = {name: family.full_ranks(CONV) for name, family in BY_NAME.items()}
    assert full == {
        "tucker2": (32, 64),
        "channel_svd": (64,),
        "spatial_svd": (96,),
        "filter_cp": (9,),
        "tensor_train": (32, 96, 64),
        "sparse_plus_svd": (31, 64),
    }


def test_families_are_offered_where_they_gain() -> None:
    assert all(family.gains(CONV) for family in BY_NAME.values())
    assert [name for name, family in BY_NAME.items() if family.gains(POINTWISE)] == [
        "channel_svd",
        "sparse_plus_svd",
    ]
    column = LayerShape.of(nn.Conv2d(6, 8, (3, 1)), (6, 7, 7), (8, 5, 7))
    assert [name for name, one in BY_NAME.items() if one.gains(column)] == [
        "tucker2",
        "channel_svd",
        "sparse_plus_svd",
    ]


def test_break_even_by_hand() -> None:
    # r < T S d^2 / (S d^2 + T) = 52.4; per MACs of the square case r < T S d / (S + T) with d = 3.
    assert family_named("channel_svd").break_even(CONV, "params") == (52,)
    square = LayerShape(16, 16, 9, 64, 64, bias=False, kernel_height=3, middle_positions=64)
    assert family_named("spatial_svd").break_even(square, "macs") == (23,)  # r < 24
    assert family_named("filter_cp").break_even(square, "macs") == (6,)  # R < 9 S / (S + 6) = 6.5
    thin = LayerShape(8, 1, 1, 4, 4, bias=False)
    assert family_named("channel_svd").break_even(thin, "macs") is None


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize("unit", ["macs", "params"])
@pytest.mark.parametrize("round_to", [1, 8, "auto"])
def test_ranks_within_a_cost_are_aligned_and_proportional(name, unit, round_to) -> None:
    family = family_named(name)
    limit = getattr(dense_cost(CONV), unit) // 2
    ranks = family.within(CONV, limit, unit, round_to)
    assert ranks is not None
    assert getattr(family.cost(CONV, ranks), unit) <= limit
    if (round_to == 8 and name != "filter_cp") or (round_to == "auto" and name not in FINER):
        assert all(rank % 8 == 0 for rank in ranks)
    if name in SEVERAL:
        shares = [r / f for r, f in zip(ranks, family.full_ranks(CONV), strict=True)]
        assert max(shares) - min(shares) <= (1 if round_to == 1 else 16) / 32
    assert family.within(CONV, 10, unit) is None


def test_the_middle_of_a_train_is_never_wider_than_its_sides_allow() -> None:
    family = family_named("tensor_train")
    assert family.settle(CONV, (2, 50, 64)) == (2, 6, 64)
    assert family.settle(CONV, (32, 50, 3)) == (32, 9, 3)
    assert all(family.relative(CONV, x / 100)[1] >= 1 for x in range(1, 101))


@pytest.mark.parametrize("name", ["spatial_svd", "tensor_train"])
@pytest.mark.parametrize("share", [0.2, 0.5])
def test_whitening_lowers_the_output_error(name, share) -> None:
    torch.manual_seed(0)
    weight = torch.randn(12, 10, 3, 3)
    shape = LayerShape(12, 10, 9, 49, 49, bias=False, kernel_height=3, middle_positions=49)
    family, covariance = family_named(name), correlated(10)
    ranks = family.relative(shape, share)
    channels = torch.einsum("akbk->ab", covariance.reshape(10, 9, 10, 9)) / 9
    plain, coarse, fine = (
        output_error(weight, family.compose(family.factors(weight, ranks, metric)), covariance)
        for metric in (None, channels, covariance)
    )
    assert fine < coarse
    assert fine < 0.95 * plain


def test_the_spatial_svd_is_the_truncated_svd() -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 5, 3, 2)
    family = family_named("spatial_svd")
    (matrix,) = family.unfoldings(weight)
    assert matrix.shape == (15, 12)
    change = weight - family.compose(family.factors(weight, (4,)))
    expected = torch.linalg.svdvals(matrix)[4:].norm()
    assert float(change.norm()) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("ranks", [(3, 5, 4), (2, 4, 6), (5, 9, 3)])
def test_the_tensor_train_is_no_worse_than_tensorly(ranks) -> None:
    torch.manual_seed(0)
    weight = torch.randn(8, 6, 3, 3, dtype=torch.float64)
    family = family_named("tensor_train")
    ours = float((weight - family.compose(family.factors(weight, ranks))).norm())
    ordered = tensorly.tensor(weight.permute(1, 2, 3, 0).numpy())  # S, kH, kW, T
    theirs = tensorly.tt_to_tensor(tensorly_tensor_train(ordered, rank=[1, *ranks, 1]))
    assert ours <= 1.01 * float(tensorly.norm(ordered - theirs))


@pytest.mark.parametrize("name", ["tucker2", "channel_svd", "spatial_svd", "tensor_train"])
def test_rules_find_the_ranks_under_noise(name, weight) -> None:
    family = family_named(name)
    true = tuple(int(r) for r in {"tucker2": (5, 6), "channel_svd": (6,)}.get(name, ()))
    found = evbmf_ranks(family, CONV, weight)
    assert found[:1] == true[:1] or name in ("spatial_svd", "tensor_train")
    assert found == true or not true
    by_energy = [energy_ranks(family, CONV, weight, share) for share in (0.3, 0.9, 1.0)]
    assert by_energy == sorted(by_energy)
    assert by_energy[-1] == family.full_ranks(CONV)
    # Directions that hold 99 % of the energy: those of the signal (noise holds 0.25 %).
    assert all(e <= f for e, f in zip(energy_ranks(family, CONV, weight, 0.99), found, strict=True))
    if name == "tensor_train":
        assert (found[0], found[2]) == (5, 6)


def test_the_energy_may_be_that_of_the_output() -> None:
    torch.manual_seed(0)
    weight, family = torch.randn(64, 32, 3, 3), family_named("tucker2")
    # Inputs of which two channels carry everything.
    covariance = torch.diag(torch.tensor([1.0, 1.0] + [1e-6] * 30))
    assert energy_ranks(family, CONV, weight, 0.95)[0] > 20
    assert energy_ranks(family, CONV, weight, 0.95, covariance=covariance)[0] == 2
    with pytest.raises(ValueError, match="covariance has shape"):
        energy_ranks(family, CONV, weight, 0.95, covariance=torch.eye(5))


def test_a_rank_that_no_matrix_has_is_refused(weight) -> None:
    for rule in (
        lambda f: evbmf_ranks(f, CONV, weight),
        lambda f: energy_ranks(f, CONV, weight, 1),
    ):
        with pytest.raises(ValueError, match="filter_cp: its rank is that of no matrix"):
            rule(family_named("filter_cp"))
