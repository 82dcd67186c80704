"""W = S + L: exact where it can be, optimal for its channels, and better than L alone."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lissom.lowrank.factorize import channel_svd, compose_svd
from lissom.lowrank.sparse_plus import Split, best_split, predicted_splits, sparse_plus_svd


def _problem(level: str, seed: int = 0) -> tuple[Tensor, Tensor | None]:
    """Give a weight (6, 5, 2, 2) and a covariance of its inputs."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(6, 5, 2, 2, generator=generator, dtype=torch.float64)
    if level == "none":
        return weight, None
    size = 20 if level == "patches" else 5
    root = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return weight, root @ root.T + 0.1 * torch.eye(size)


def _loss(change: Tensor, covariance: Tensor | None) -> Tensor:
    if covariance is None:
        return change.square().sum()
    if len(covariance) == change[0].numel():
        return (change.flatten(1) @ covariance * change.flatten(1)).sum()
    return torch.einsum("tsij,sr,trij->", change, covariance, change)


LEVELS = pytest.mark.parametrize("level", ["none", "channels", "patches"])


@LEVELS
def test_all_channels_but_one_and_full_rank_give_the_weight(level: str) -> None:
    weight, covariance = _problem(level)
    torch.testing.assert_close(sparse_plus_svd(weight, 4, 4, covariance=covariance).dense, weight)


@LEVELS
def test_the_order_names_every_channel_once_and_shapes_fit(level: str) -> None:
    weight, covariance = _problem(level)
    split = sparse_plus_svd(weight, 2, 3, covariance=covariance)
    order = split.order.tolist()
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert order == sorted(order[:2]) + sorted(order[2:])
    assert (split.sparse.shape, split.first.shape) == ((6, 2, 2, 2), (3, 3, 2, 2))
    torch.testing.assert_close(split.last.T @ split.last, torch.eye(3, dtype=torch.float64))


@LEVELS
def test_for_its_channels_no_split_errs_less(level: str) -> None:
    """Gradient descent on S and L from there finds nothing better."""
    weight, covariance = _problem(level)
    split = sparse_plus_svd(weight, 2, 2, covariance=covariance)
    if covariance is not None:  # the damping is part of the problem that was solved
        covariance = covariance + 1e-4 * covariance.diagonal().mean() * torch.eye(len(covariance))
    free = [p.clone().requires_grad_() for p in (split.sparse, split.last, split.first)]
    start = float(_loss(split.dense - weight, covariance))
    optimizer = torch.optim.LBFGS(free, max_iter=200, line_search_fn="strong_wolfe")

    def change() -> Tensor:
        return Split(split.order, *free).dense - weight

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = _loss(change(), covariance)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert float(_loss(change().detach(), covariance)) >= start * (1 - 1e-6)


@LEVELS
@pytest.mark.parametrize("seed", range(5))
def test_the_channels_come_close_to_the_best_ones(level: str, seed: int) -> None:
    """Of ten pairs of channels, tried one by one, the chosen pair is among the best three."""
    weight, covariance = _problem(level, seed)
    ours = float(
        _loss(sparse_plus_svd(weight, 2, 2, covariance=covariance).dense - weight, covariance)
    )
    errors = sorted(
        _by_hand(weight, covariance, pair) for pair in itertools.combinations(range(5), 2)
    )
    assert min(errors) * (1 - 1e-3) <= ours <= errors[2] * (1 + 1e-3)


def _by_hand(weight: Tensor, covariance: Tensor | None, pair: tuple[int, ...]) -> float:
    """Give the error of S on a pair and L of rank 2: that of L under what the pair leaves open."""
    rest = [c for c in range(5) if c not in pair]
    others, given = weight[:, rest], covariance
    if covariance is not None:
        places = torch.arange(len(covariance)).reshape(5, -1)
        a, b = places[list(pair)].flatten(), places[rest].flatten()
        cross = covariance[b][:, a]
        given = covariance[b][:, b] - cross @ torch.linalg.solve(covariance[a][:, a], cross.T)
    last, first = channel_svd(others, 2, covariance=given)
    return float(_loss(compose_svd(last, first) - others, given))


@settings(deadline=None, max_examples=20)
@given(channels=st.integers(1, 4), rank=st.integers(1, 4), seed=st.integers(0, 50))
def test_channels_of_their_own_never_harm(channels: int, rank: int, seed: int) -> None:
    weight, covariance = _problem("patches", seed)
    rank = min(rank, 4 * (5 - channels))
    both = sparse_plus_svd(weight, channels, rank, covariance=covariance)
    alone = compose_svd(*channel_svd(weight, rank, covariance=covariance))
    error, plain = (float(_loss(d - weight, covariance)) for d in (both.dense, alone))
    assert error <= plain * (1 + 1e-9) + 1e-12


@LEVELS
def test_a_planted_sum_is_found(level: str) -> None:
    """Two channels of full rank among eight of rank one, none of which the others show."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(7, 8, generator=generator, dtype=torch.float64)[:, :, None, None]
    weight = weight[:, :1] * torch.randn(1, 8, 3, 3, generator=generator, dtype=torch.float64)
    weight[:, [2, 6]] = torch.randn(7, 2, 3, 3, generator=generator, dtype=torch.float64)
    covariance = None if level == "none" else torch.eye(72 if level == "patches" else 8)
    split = sparse_plus_svd(weight, 2, 1, covariance=covariance)
    assert split.order.tolist() == [2, 6, 0, 1, 3, 4, 5, 7]
    torch.testing.assert_close(split.dense, weight)


def test_both_numbers_are_chosen_together() -> None:
    """The best of all splits that fit, each tried in full, is hardly better than the chosen one."""
    weight, covariance = _problem("patches", 3)
    frontier = {channels: min(6 - channels, 4 * (5 - channels)) for channels in range(1, 5)}
    tried = {
        one: float(
            _loss(sparse_plus_svd(weight, *one, covariance=covariance).dense - weight, covariance)
        )
        for one in frontier.items()
    }
    least = min(tried.values())
    assert max(tried.values()) > 1.5 * least
    assert tried[best_split(weight, frontier, covariance=covariance)] <= 1.001 * least
    few = {channels: frontier[channels] for channels in (1, 2)}
    predicted = predicted_splits(weight, [frontier, few], covariance=covariance)
    assert tried[predicted[0]] <= 1.2 * least
    assert predicted[1] in few.items()


def test_a_linear_layer_is_split_too() -> None:
    weight = torch.randn(7, 5)
    split = sparse_plus_svd(weight, 2, 3)
    shapes = [tuple(part.shape) for part in (split.sparse, split.last, split.first)]
    assert shapes == [(7, 2), (7, 3), (3, 3)]
    taken = split.order[:2]
    torch.testing.assert_close(split.dense[:, taken], weight[:, taken])


@pytest.mark.parametrize(
    ("channels", "rank", "message"),
    [
        (0, 1, "channels=0, expected 1 to 4"),
        (5, 1, "channels=5"),
        (4, 5, "rank=5, expected 1 to 4"),
    ],
)
def test_numbers_out_of_range_are_named(channels: int, rank: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sparse_plus_svd(torch.randn(6, 5, 2, 2), channels, rank)


def test_what_is_no_weight_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs \(T, S\) or \(T, S, kH, kW\), got \(6,\)"):
        sparse_plus_svd(torch.randn(6), 1, 1)
    with pytest.raises(ValueError, match="covariance has shape"):
        best_split(torch.randn(6, 5), {1: 1}, covariance=torch.eye(4))
