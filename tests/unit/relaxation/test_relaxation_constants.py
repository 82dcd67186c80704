"""Constants that channels without filters leave: folded where that is exact, named where not."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissom.graph.capture import capture
from lissom.relaxation.support import ROWS
from method_samples import seeded
from relaxation_samples import images, relative_difference, relaxed_from

INPUTS = (torch.zeros(1, 3, 8, 8),)


class Chain(nn.Module):
    """A hidden layer whose channels leave a constant, and what reads it."""

    def __init__(self, reader: nn.Module, *, norm_behind: bool = False, act=None) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.reader, self.act = reader, act or nn.ReLU()
        self.behind = nn.BatchNorm2d(5) if norm_behind else nn.Identity()
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.behind(self.reader(self.act(self.norm(self.a(x)))))
        return self.head(F.relu(x).mean((2, 3)))


GONE = torch.tensor([True, False, True, False, False, True])


def audible(factory):
    """Build a network whose channels leave constants above 0."""
    model = seeded(factory)
    with torch.no_grad():
        model.norm.bias.copy_(torch.linspace(0.6, 1.1, 6))
        model.norm.running_mean.mul_(0.1)
    return model


def hardened_of(model, gone=GONE):
    """Let rows of A vanish, harden; give outputs before and after and what was said."""
    case = relaxed_from(
        model, capture(model, INPUTS), form="plain", row_parts="filters", row_groups="all"
    )
    case.vanish({(ROWS, "a"): ~gone})
    before = case.outputs()
    hardened = case.relaxation.harden(case.network)
    with torch.no_grad():
        return before, case.built(hardened)(images()), hardened


@pytest.mark.parametrize("norm_behind", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("act", [nn.ReLU(), nn.Sigmoid()])
def test_without_padding_it_is_exact(norm_behind, bias, act) -> None:
    if not bias and not norm_behind:
        return  # nowhere to put it: see below
    model = audible(lambda: Chain(nn.Conv2d(6, 5, 3, bias=bias), norm_behind=norm_behind, act=act))
    before, after, hardened = hardened_of(model)
    assert hardened.removed == {"a": 3}
    assert hardened.inexact == ()
    assert relative_difference(after, before) < 1e-5


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_that_goes_on_with_the_constant_is_exact(mode) -> None:
    model = audible(lambda: Chain(nn.Conv2d(6, 5, 3, padding=1, padding_mode=mode)))
    before, after, hardened = hardened_of(model)
    assert hardened.removed == {"a": 3}
    assert hardened.inexact == ()
    assert relative_difference(after, before) < 1e-5


def test_with_zero_padding_the_border_is_off_and_the_reader_named() -> None:
    model = audible(lambda: Chain(nn.Conv2d(6, 5, 3, padding=1)))
    before, after, hardened = hardened_of(model)
    assert hardened.inexact == ("reader",)
    assert 1e-5 < relative_difference(after, before) < 0.5


def test_a_reader_without_bias_or_norm_keeps_the_channel() -> None:
    model = audible(lambda: Chain(nn.Conv2d(6, 5, 3, bias=False)))
    before, after, hardened = hardened_of(model)
    assert not any(hardened.removed.values())
    assert relative_difference(after, before) < 1e-5


def test_of_those_channels_the_silent_ones_go_all_the_same() -> None:
    """Before a ReLU a constant below 0 is none."""
    model = audible(lambda: Chain(nn.Conv2d(6, 5, 3, bias=False)))
    with torch.no_grad():
        model.norm.bias[0] = -9.0
    before, after, hardened = hardened_of(model)
    assert hardened.removed == {"a": 1}
    assert relative_difference(after, before) < 1e-5


def test_a_transposed_convolution_spreads_it_unevenly_and_keeps_the_channel() -> None:
    model = audible(lambda: Chain(nn.ConvTranspose2d(6, 5, 3, stride=2)))
    before, after, hardened = hardened_of(model)
    assert not any(hardened.removed.values())
    assert relative_difference(after, before) < 1e-5


class Shared(Chain):
    """The reader's output goes to its norm and past it."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.reader(self.act(self.norm(self.a(x))))
        return self.head((F.relu(self.behind(y)) + y).mean((2, 3)))


def test_a_norm_that_is_not_the_only_one_to_read_can_not_take_it() -> None:
    model = audible(lambda: Shared(nn.Conv2d(6, 5, 3, bias=False), norm_behind=True))
    before, after, hardened = hardened_of(model)
    assert not any(hardened.removed.values())
    assert relative_difference(after, before) < 1e-5


class Flat(nn.Module):
    """A linear layer over flattened maps: a channel stands at many of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.head = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(6 * 36, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(self.a(x))).flatten(1))


def test_through_a_flatten_it_is_exact() -> None:
    before, after, hardened = hardened_of(audible(Flat))
    assert hardened.removed == {"a": 3}
    assert relative_difference(after, before) < 1e-5


def test_several_layers_in_a_row_are_exact() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
            self.b, self.norm_b = nn.Conv2d(6, 7, 3, bias=False), nn.BatchNorm2d(7)
            self.c, self.head = nn.Conv2d(7, 5, 1), nn.Linear(5, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.norm_b(self.b(torch.sigmoid(self.norm(self.a(x))))))
            return self.head(F.relu(self.c(x)).mean((2, 3)))

    model = audible(Deep)
    case = relaxed_from(model, capture(model, INPUTS), form="plain", row_parts="filters")
    case.vanish({(ROWS, "a"): ~GONE, (ROWS, "b"): torch.arange(7) % 3 > 0})
    before = case.outputs()
    hardened = case.relaxation.harden(case.network)
    assert hardened.removed == {"a": 3, "b": 3}
    with torch.no_grad():
        assert relative_difference(case.built(hardened)(images()), before) < 1e-5


def test_the_comparison_sees_a_constant_that_was_dropped(monkeypatch) -> None:
    monkeypatch.setattr("lissom.relaxation.constants._add", lambda *_given: None)
    model = audible(lambda: Chain(nn.Conv2d(6, 5, 3)))
    before, after, _ = hardened_of(model)
    assert relative_difference(after, before) > 1e-3
