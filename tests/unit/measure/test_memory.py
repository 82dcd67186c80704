from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lissom.errors import ModelError
from lissom.measure.memory import peak_activation_bytes
from lissom.models.catalog import build_model

FLOAT = 4


def test_a_chain_holds_what_an_operator_reads_and_makes() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(128, 10)
    )
    # The input stays; the ReLU reads 8 x 8 x 8 and makes as many.
    expected = 3 * 64 + 2 * 8 * 64
    assert peak_activation_bytes(model, (torch.randn(1, 3, 8, 8),)) == FLOAT * expected


def test_an_operator_in_place_adds_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.AvgPool2d(2))
    expected = 3 * 64 + 8 * 64 + 8 * 16
    assert peak_activation_bytes(model, (torch.randn(1, 3, 8, 8),)) == FLOAT * expected


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.second(x)
        return y + x


def test_a_residual_join_holds_the_shortcut_too() -> None:
    inputs = (torch.randn(1, 4, 5, 5),)
    # The input, the shortcut, the branch and the sum.
    assert peak_activation_bytes(Residual(), inputs) == FLOAT * 4 * 100


class Views(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = torch.ones(1000)
        self.weight = nn.Parameter(torch.ones(10, 20))

    def forward(self, x: Tensor) -> Tensor:
        halves = x.reshape(2, 10).t().chunk(2)
        left = halves[0].detach()[1:]
        self.table[:5].add_(0)
        self.weight.t().view(20, 10)
        return left.flatten(1)[:, 0].view(-1)


def test_views_of_inputs_parameters_and_constants_count_nothing() -> None:
    assert peak_activation_bytes(Views(), (torch.randn(1, 20),)) == FLOAT * 20


class Dropped(nn.Module):
    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.steps):
            x = x * 2
        return x


def test_what_is_let_go_is_forgotten() -> None:
    inputs = (torch.randn(1, 50),)
    few, many = (peak_activation_bytes(Dropped(steps), inputs) for steps in (3, 30))
    assert few == many == FLOAT * 3 * 50


def test_a_larger_batch_behind_the_input_does_not_count() -> None:
    batch = torch.randn(64, 50)
    assert peak_activation_bytes(Dropped(1), (batch[:1],)) == FLOAT * 2 * 50


def test_fewer_channels_hold_less_whatever_the_threads() -> None:
    def peak(channels: int) -> int:
        model = nn.Sequential(nn.Conv2d(3, channels, 3), nn.ReLU(), nn.Conv2d(channels, 4, 3))
        return peak_activation_bytes(model, (torch.randn(1, 3, 34, 34),))

    threads, expected = torch.get_num_threads(), FLOAT * (3 * 34**2 + 2 * 16 * 32**2)
    assert peak(16) == expected
    assert peak(5) == expected - FLOAT * 2 * 11 * 32**2
    try:
        torch.set_num_threads(threads + 1)
        assert peak(16) == expected
    finally:
        torch.set_num_threads(threads)


def test_a_network_of_the_catalog_can_be_measured() -> None:
    # In the second block, at 16 x 32 x 32: what the stage was called with, what the block was
    # called with, and of the branch ReLU, convolution and normalization. And the input.
    expected = FLOAT * (5 * 16 * 32**2 + 3 * 32**2)
    model = build_model("lissom:resnet20")
    assert peak_activation_bytes(model, (torch.randn(1, 3, 32, 32),)) == expected


def test_the_network_stays_as_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.Dropout())
    model[1].eval()
    mean = model[1].running_mean.clone()
    peak_activation_bytes(model, (torch.randn(1, 1, 4, 4),))
    assert [part.training for part in model] == [True, False, True]
    assert torch.equal(model[1].running_mean, mean)


class Sparse(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.to_sparse()


def test_memory_that_cannot_be_followed_is_named() -> None:
    with pytest.raises(ModelError, match=r"tensor of layout torch.sparse_coo.*to_dense"):
        peak_activation_bytes(Sparse(), (torch.randn(1, 4),))


class Hoarding(Dropped):
    def forward(self, x: Tensor) -> Tensor:
        self.held = x * 1
        return super().forward(x)


def test_the_oracle_notices_a_tensor_that_is_held_longer() -> None:
    inputs = (torch.randn(1, 50),)
    plain = peak_activation_bytes(Dropped(3), inputs)
    assert peak_activation_bytes(Hoarding(3), inputs) == plain + FLOAT * 50
