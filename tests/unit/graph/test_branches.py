"""Residual branches that can go as a whole."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lissom.graph.branches import Branch, residual_branches
from lissom.graph.capture import capture
from lissom.models.catalog import build_model
from lissom.plan.build import build
from lissom.plan.plan import Plan

IMAGE = (torch.randn(1, 8, 6, 6, generator=torch.Generator().manual_seed(0)),)


class Block(nn.Module):
    def __init__(self, channels=8):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout(0.1)

    def branch(self, x):
        return self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))

    def forward(self, x):
        return F.relu(x + self.dropout(self.branch(x)))


def found_in(*modules):
    return residual_branches(nn.Sequential(*modules).eval(), IMAGE)


LAYERS = ("conv1", "norm1", "conv2", "norm2")


def layers(prefix):
    return tuple(f"{prefix}.{name}" for name in LAYERS)


def test_blocks_are_found_in_the_order_in_which_they_run():
    assert found_in(nn.Conv2d(8, 8, 1), Block(), Block()) == (
        Branch("1", layers("1")),
        Branch("2", layers("2")),
    )


def test_what_remains_adds_nothing_and_has_no_parameters_of_the_branch():
    model = nn.Sequential(nn.Conv2d(8, 8, 1), Block(), nn.Conv2d(8, 2, 1)).eval()
    (branch,) = residual_branches(model, IMAGE)
    smaller = build(model, Plan((branch.decision,)))
    expected = model[2](F.relu(model[0](*IMAGE)))
    assert torch.equal(smaller(*IMAGE), expected)
    left = {name.partition(".")[0] for name, _ in smaller.named_parameters()}
    assert left == {"0", "2"}


class Pair(Block):
    """The other side of the addition, in place."""

    def forward(self, x):
        out = self.branch(x)
        out += x
        return out


def test_either_side_of_an_addition_in_place():
    assert found_in(Pair()) == (Branch("0", layers("0")),)


class Widening(Block):
    def __init__(self):
        super().__init__()
        self.shortcut = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return self.shortcut(x) + self.branch(x)


class Peeking(Block):
    """Somebody else reads the branch."""

    def forward(self, x):
        inner = self.norm1(self.conv1(x))
        return x + self.norm2(self.conv2(inner)) + inner.mean()


class Excited(Block):
    """Ends in more than a layer."""

    def forward(self, x):
        out = self.branch(x)
        return x + out * torch.sigmoid(out.mean((2, 3), keepdim=True))


class Rewriting(Block):
    """The branch's first operator changes x itself, and still does without the branch."""

    def forward(self, x):
        x = x * 1
        return self.norm2(self.conv2(self.norm1(self.conv1(F.relu_(x))))) + x


class Broadcasting(Block):
    def forward(self, x):
        return x + self.branch(x).mean((2, 3), keepdim=True)


class Pooled(Block):
    """Its layers change the size, so that zeros would not have the shape of x."""

    def branch(self, x):
        return self.norm2(F.conv_transpose2d(F.max_pool2d(self.conv1(x), 2), self.spread, stride=2))

    def __init__(self):
        super().__init__()
        self.spread = nn.Parameter(torch.randn(4, 8, 2, 2))


@pytest.mark.parametrize("kind", [Widening, Peeking, Excited, Broadcasting, Pooled])
def test_what_is_no_plain_branch_is_left_alone(kind):
    assert found_in(kind(), nn.Conv2d(8, 2, 1)) == ()


def test_operators_that_change_x_itself_stay():
    model = nn.Sequential(Rewriting(), nn.Conv2d(8, 2, 1)).eval()
    (branch,) = residual_branches(model, IMAGE)
    smaller = build(model, Plan((branch.decision,)))
    assert torch.equal(smaller(*IMAGE), model[1](F.relu(*IMAGE)))


class Twice(nn.Module):
    """Layers that run elsewhere, too."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return self.conv(x + self.conv(x))


def test_layers_that_run_elsewhere_stay():
    assert residual_branches(Twice().eval(), IMAGE) == ()


def test_a_network_that_cannot_be_followed_has_none():
    class Odd(nn.Module):
        def forward(self, x):
            return x + 1 if x.sum() > 0 else x

    assert residual_branches(Odd().eval(), IMAGE) == ()


def test_residual_networks_of_the_catalog():
    model = build_model("lissom:resnet20").eval()
    image = (torch.randn(1, 3, 32, 32),)
    found = residual_branches(model, image)
    # Nine blocks; the first of the second and of the third stage change the shape, and their
    # shortcut without parameters is a branch's start no less.
    assert len(found) >= 7
    state = model.state_dict()
    smaller = build(model, Plan(tuple(branch.decision for branch in found)))
    assert set(smaller.state_dict()) < set(state)
    assert capture(smaller, image).cost.macs < capture(model, image).cost.macs / 3
