"""Operators that are run in one go, against the network itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lissom.graph.replay import Replay
from lissom.graph.steps import steps_of
from lissom.graph.trace import private_copy, trace

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """A convolution with batch norm, and what its forward makes of them."""

    def __init__(self, forward: Callable[[Block, Tensor], Tensor], **options: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1, **options)
        self.norm = nn.BatchNorm2d(6, affine=options.get("groups", 1) == 1)
        self.norm.running_mean = torch.randn(6)
        self.norm.running_var = torch.rand(6) + 0.5
        self.follow = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.follow(self, x)


def plain(net: Block, x: Tensor) -> Tensor:
    return net.norm(net.conv(x)).relu()


def without_relu(net: Block, x: Tensor) -> Tensor:
    return net.norm(net.conv(x)) * 2


def read_twice(net: Block, x: Tensor) -> Tensor:
    y = net.conv(x)
    return net.norm(y).relu() + y


def norm_read_twice(net: Block, x: Tensor) -> Tensor:
    y = net.norm(net.conv(x))
    return y.relu() + y


def returned(net: Block, x: Tensor) -> Tensor:
    y = net.norm(net.conv(x))
    return torch.cat([y.relu(), y])


def summed(net: Block, x: Tensor) -> Tensor:
    y = net.norm(net.conv(x)).relu()
    return (y + y.flip(1)).relu()


def sum_read_twice(net: Block, x: Tensor) -> Tensor:
    y = net.conv(x) + 1
    return y.relu() - y


def norm_first(net: Block, x: Tensor) -> Tensor:
    return net.norm(net.conv(x).relu()).relu()


FORMS: dict[Callable[[Block, Tensor], Tensor], int] = {
    plain: 4,
    without_relu: 3,
    read_twice: 1,
    norm_read_twice: 3,
    returned: 3,
    summed: 4,
    sum_read_twice: 1,
    norm_first: 1,
}


def longest(net: nn.Module) -> int:
    program = trace(private_copy(net), (X,), functional=True)
    return max(len(step.nodes) for step in steps_of(program.nodes, program.outputs))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"groups": 3, "stride": 2}])
def test_every_form_gives_what_the_network_gives(
    form: Callable[[Block, Tensor], Tensor], options: dict[str, object]
) -> None:
    torch.manual_seed(0)
    net = Block(form, **options).eval()
    assert longest(net) == FORMS[form]
    replay = Replay(net, (X,))
    with torch.no_grad():
        torch.testing.assert_close(replay.record((X,)), net(X), rtol=1e-5, atol=1e-5)
        for name, tensor in list(net.state_dict().items()):
            if not tensor.is_floating_point():
                continue
            changed = tensor * 1.5 + 0.1
            found = replay.run({name: changed})
            kept = tensor.clone()
            tensor.copy_(changed)
            torch.testing.assert_close(found, net(X), rtol=1e-5, atol=1e-5)
            tensor.copy_(kept)
        # What was recorded is not written over.
        torch.testing.assert_close(replay.run({}), net(X), rtol=1e-5, atol=1e-5)


def test_a_changed_batch_norm_counts_the_convolution_that_runs_with_it() -> None:
    replay = Replay(Block(plain).eval(), (X,))
    replay.record((X,))
    assert replay.affected(["norm.weight"]) == 1.0


def test_what_differs_in_type_or_axes_is_not_folded() -> None:
    half = Block(lambda net, x: net.norm(net.conv(x.bfloat16()).float()).relu())
    half.conv.bfloat16()
    assert longest(half.eval()) == 1

    class Unbatched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm1d(8)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(x))  # (channels, rows, columns): the norm is over the rows

    net, x = Unbatched().eval(), torch.randn(3, 8, 8)
    assert max(len(step.nodes) for step in Replay(net, (x,))._steps) == 1


def test_an_output_is_no_value_between() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block(plain)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.block.conv(x)
            return y, self.block.norm(y).relu()

    net = Both().eval()
    assert longest(net) == 1
    replay = Replay(net, (X,))
    for found, wanted in zip(replay.record((X,)), net(X), strict=True):
        torch.testing.assert_close(found, wanted)
