from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from lissom.pruning.reconstruct import (
    Reader,
    greedy_kept,
    output_error,
    reconstruct,
    reconstruction_harm,
    removal_harms,
)


def correlated(size: int, samples: int = 2000) -> Tensor:
    mixed = torch.randn(samples, size, dtype=torch.float64) @ torch.randn(size, size).double()
    return mixed.relu() + 0.1 * torch.randn(samples, size).double()


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def rebuilt(weight: Tensor, keep: tuple[int, ...], covariance: Tensor) -> Tensor:
    new = torch.zeros_like(weight)
    new[:, list(keep)] = reconstruct(weight, keep, covariance)
    return new


def test_it_is_least_squares_on_the_samples() -> None:
    samples, weight, keep = correlated(6), torch.randn(4, 6, dtype=torch.float64), (0, 2, 5)
    fitted = torch.linalg.lstsq(samples[:, keep], samples @ weight.T).solution.T
    new = reconstruct(weight, keep, samples.T @ samples / 2000, ridge=1e-12)
    torch.testing.assert_close(new, fitted, rtol=1e-6, atol=1e-6)


def test_patch_level_works_on_whole_channels() -> None:
    samples, weight = correlated(12), torch.randn(4, 3, 2, 2, dtype=torch.float64)
    new = reconstruct(weight, (0, 2), samples.T @ samples / 2000, ridge=1e-12)
    columns = [0, 1, 2, 3, 8, 9, 10, 11]
    fitted = torch.linalg.lstsq(samples[:, columns], samples @ weight.flatten(1).T).solution.T
    torch.testing.assert_close(new.flatten(1), fitted, rtol=1e-6, atol=1e-6)


def test_channel_level_is_the_kronecker_patch_level() -> None:
    samples, weight = correlated(3), torch.randn(4, 3, 2, 2, dtype=torch.float64)
    channels = samples.T @ samples / 2000
    patches = torch.kron(channels, torch.eye(4, dtype=torch.float64))
    small, large = (reconstruct(weight, (0, 2), c) for c in (channels, patches))
    torch.testing.assert_close(small, large)


def test_keeping_everything_changes_nothing() -> None:
    weight = torch.randn(4, 3, 3, 3)
    new = reconstruct(weight, range(3), torch.zeros(27, 27))
    assert torch.equal(new, weight)
    assert new.dtype == torch.float32


def test_inputs_that_the_data_never_showed() -> None:
    covariance = torch.diag(torch.tensor([1.0, 0.0, 1.0]))
    weight = torch.randn(2, 3)
    torch.testing.assert_close(
        reconstruct(weight, (0, 1), covariance), weight[:, :2], rtol=1e-3, atol=1e-3
    )


def test_output_error_is_the_relative_error_of_the_output() -> None:
    samples, weight = correlated(6), torch.randn(4, 6, dtype=torch.float64)
    new = weight + 0.1 * torch.randn_like(weight)
    expected = (samples @ (weight - new).T).square().sum() / (samples @ weight.T).square().sum()
    assert output_error(weight, new, samples.T @ samples) == pytest.approx(float(expected))
    assert output_error(torch.zeros(2, 3), torch.zeros(2, 3), torch.eye(3)) == 0


@pytest.mark.parametrize("kernel", [(), (2, 2)])
def test_harm_is_the_error_after_removal_and_repair(kernel) -> None:
    weight = torch.randn(5, 4, *kernel, dtype=torch.float64)
    samples = correlated(weight[0].numel())
    covariance = samples.T @ samples / 2000
    harms = reconstruction_harm(weight, covariance)
    for channel in range(4):
        keep = tuple(k for k in range(4) if k != channel)
        error = output_error(weight, rebuilt(weight, keep, covariance), covariance)
        # Up to the ridge of 1e-4, which the harm counts as signal.
        assert float(harms[channel]) == pytest.approx(error, rel=1e-2, abs=1e-4)


def test_harm_without_a_covariance_is_the_energy() -> None:
    weight = torch.randn(5, 4, 3, 3)
    energy = weight.square().sum((0, 2, 3))
    torch.testing.assert_close(
        reconstruction_harm(weight).float(), energy / energy.sum(), rtol=1e-3, atol=1e-5
    )


def test_successive_removals_add_up_to_the_error() -> None:
    weight, samples = torch.randn(5, 6, 2, 2, dtype=torch.float64), correlated(24)
    covariance = samples.T @ samples / 2000
    reached = removal_harms([Reader(weight, covariance)], 6)
    for keep_count in range(1, 6):
        keep = greedy_kept([Reader(weight, covariance)], 6, keep_count)
        assert len(keep) == keep_count
        error = output_error(weight, rebuilt(weight, keep, covariance), covariance)
        predicted = float(reached.sort(descending=True).values[keep_count])
        assert predicted == pytest.approx(error, rel=1e-2, abs=1e-3)


def test_greedy_is_close_to_the_best_subset_and_beats_norms() -> None:
    weight = torch.randn(8, 10, dtype=torch.float64)
    samples = correlated(10)
    covariance = samples.T @ samples / 2000

    def error(keep: tuple[int, ...]) -> float:
        return output_error(weight, rebuilt(weight, keep, covariance), covariance)

    best = min(error(keep) for keep in combinations(range(10), 5))
    by_norm = tuple(sorted(weight.norm(dim=0).argsort(descending=True)[:5].tolist()))
    greedy = error(greedy_kept([Reader(weight, covariance)], 10, 5))
    assert greedy <= 1.3 * best
    assert greedy < error(by_norm)


def test_several_readers_and_repeated_or_foreign_inputs() -> None:
    # Channel 1 matters to the second reader only; index 3 belongs to another group.
    first = Reader(torch.tensor([[1.0, 0.0, 0.0, 5.0]]), None, (0, 1, 2, -1))
    second = Reader(torch.tensor([[0.1, 1.0, 0.1, 1.0, 0.0, 0.0]]), None, (0, 1, 2, 1, -1, -1))
    reached = removal_harms([first, second], 3)
    assert reached.argsort().tolist()[0] == 2
    assert greedy_kept(
        [Reader(torch.tensor([[1.0, 3.0, 2.0]])), Reader(torch.tensor([[9.0, 0.1, 0.0]]))], 3, 2
    ) == (0, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w, c: reconstruct(w, (), c), r"the weight has 3 inputs; expected at least one"),
        (lambda w, c: reconstruct(w, (0, 3), c), r"below that to keep, got \[0, 3\]"),
        (lambda w, c: reconstruct(w, (1, 0), c), r"strictly increasing"),
        (
            lambda w, c: reconstruct(w, (0,), torch.eye(4)),
            r"covariance has shape \(4, 4\).*groups=1",
        ),
        (lambda w, c: reconstruct(w, (0,), c * float("nan")), r"not finite"),
        (lambda w, c: output_error(w, w[:1], c), r"shapes \(2, 3, 3, 3\) and \(1, 3, 3, 3\)"),
        (lambda w, c: greedy_kept([Reader(w)], 3, 0), r"keep=0, expected 1 to 3"),
    ],
)
def test_wrong_arguments_are_named(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.randn(2, 3, 3, 3), torch.eye(27))
