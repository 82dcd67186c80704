"""What a layer's output meets next."""

import torch
from torch import nn

from lissom.relaxation.neighbours import channels_first, layer_inputs, norms_behind


class Paths(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.shared, self.norm_shared = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.late, self.norm_late = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.twice, self.norm_twice = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.unused = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x = self.norm(self.own(x))
        y = self.shared(x)
        x = self.norm_shared(y) + y
        x = self.norm_late(torch.relu(self.late(x)))
        return self.norm_twice(self.twice(self.twice(x)))


def test_a_norm_counts_if_it_reads_the_very_output_and_nobody_else_does() -> None:
    model = Paths().eval()
    layers = ("own", "shared", "late", "twice", "unused")
    inputs = (torch.zeros(2, 3, 5, 5),)
    assert norms_behind(model, layers, inputs) == {"own": "norm"}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_everything_that_was_read_is_given() -> None:
    model = Paths().eval()
    images = torch.randn(2, 3, 5, 5)
    seen = layer_inputs(model, ("own", "twice", "unused"), (images,))
    assert set(seen) == {"own", "twice"}
    assert torch.equal(seen["own"][0], images)
    assert len(seen["twice"]) == 2


def test_channels_come_first_wherever_they_were() -> None:
    assert channels_first(torch.zeros(2, 3, 5, 6), 3).shape == (3, 2, 5, 6)
    assert channels_first(torch.zeros(2, 7), 7).shape == (7, 2)
    assert channels_first(torch.zeros(2, 4, 7), 7).shape == (7, 2, 4)
