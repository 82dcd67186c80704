from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from nets import conv
from torch import nn

from lissom.graph.advice import instead_of_literals, instead_of_padding
from lissom.graph.capture import capture
from lissom.graph.offers import prunable_layers
from lissom.models.shortcut import ZeroPadShortcut

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Lambda(nn.Module):
    """How a widely copied ResNet for CIFAR writes its shortcut."""

    def __init__(self, planes):
        super().__init__()
        self.function = lambda x: F.pad(
            x[:, :, ::2, ::2], (0, 0, 0, 0, planes // 4, planes // 4), "constant", 0
        )

    def forward(self, x):
        return self.function(x)


class Block(nn.Module):
    def __init__(self, shortcut):
        super().__init__()
        self.stem, self.norm, self.wide = conv(3, 4), nn.BatchNorm2d(4), conv(4, 8, stride=2)
        self.shortcut, self.head = shortcut, nn.Linear(8, 2)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        return self.head((self.wide(x) + self.shortcut(x)).mean((2, 3)))


def test_the_remedy_for_a_padding_by_number_is_given_and_works():
    torch.manual_seed(0)
    literal = Block(Lambda(8)).eval()
    refused = [r for r in capture(literal, (X,)).refusals if r.action == "prune"]
    by_layer = {r.layer: r for r in refused}
    for name in ("stem", "wide"):
        assert "does not run after a cut" in by_layer[name].reason
        assert "test_advice.py:" in by_layer[name].where
        assert "here in shortcut, from 4 to 8 channels" in by_layer[name].remedy
        assert "ZeroPadShortcut(in_channels, out_channels, stride)" in by_layer[name].remedy

    followed = Block(ZeroPadShortcut(4, 8, 2)).eval()
    followed.load_state_dict(literal.state_dict())
    assert torch.equal(followed(X), literal(X))
    assert prunable_layers(capture(followed, (X,))) == {"stem", "wide"}


def test_a_padding_of_another_group_is_not_blamed():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.stem, self.last = Block(Lambda(8)), conv(3, 4), nn.Linear(256, 2)

        def forward(self, x):
            return self.block(x) + self.last(self.stem(x).view(-1, 256))

    remedies = {r.layer: r.remedy for r in capture(Both(), (X,)).refusals if r.action == "prune"}
    assert "replace the padding" in remedies["block.stem"]
    assert "write x.flatten(1)" in remedies["stem"]


def test_zeros_on_one_side_ask_for_a_map_of_its_own():
    assert "lissom.plan.surgery.ChannelMap" in instead_of_padding("", 4, 0, 4)
    assert "from 4 to 8 channels" in instead_of_padding("", 4, 0, 4)
    assert "ZeroPadShortcut" in instead_of_padding("", 4, 2, 3)


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        ("shape '[-1, 256]' is invalid for input of size 480", "x.flatten(1)"),
        ("split_with_sizes expects split_sizes to sum exactly to 7", "x.shape[1] // parts"),
        ("The size of tensor a (7) must match the size of tensor b (8)", "sizes from x.shape"),
    ],
)
def test_the_remedy_fits_the_failure(message, remedy):
    assert remedy in instead_of_literals(message)
