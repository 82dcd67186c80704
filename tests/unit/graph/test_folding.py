from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissom.errors import ModelError
from lissom.graph import folding
from lissom.graph.folding import foldable
from lissom.models.resnet8 import ResNet8
from lissom.models.resnet_cifar import digits_resnet, resnet_cifar

IMAGES = (torch.zeros(1, 3, 8, 8),)


class Net(nn.Module):
    """Layers by name, and a function of (self, x)."""

    def __init__(self, rule: Callable[[Net, Tensor], object], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self._rule = rule

    def forward(self, x: Tensor) -> object:
        return self._rule(self, x)


def conv(inputs: int = 3, outputs: int = 4, **options: object) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


def plain(self: Net, x: Tensor) -> Tensor:
    return self.norm(self.conv(x))


def test_residual_networks_fold_every_norm() -> None:
    found = foldable(resnet_cifar(8), (torch.zeros(1, 3, 16, 16),))
    assert list(found.items())[:3] == [
        ("conv1", "bn1"),
        ("layer1.0.conv1", "layer1.0.bn1"),
        ("layer1.0.conv2", "layer1.0.bn2"),
    ]
    assert len(found) == 7
    assert len(foldable(digits_resnet(), (torch.zeros(1, 1, 8, 8),))) == 9
    eight = foldable(ResNet8(), (torch.zeros(1, 3, 32, 32),))
    assert all("conv" in layer or "shortcut" in layer for layer in eight)
    assert len(eight) == 7


@pytest.mark.parametrize(
    "layer", [conv(), conv(bias=False), conv(3, 6, groups=3), conv(stride=2, dilation=2)]
)
def test_convolutions_of_any_kind_are_found(layer: nn.Conv2d) -> None:
    model = Net(plain, conv=layer, norm=nn.BatchNorm2d(layer.out_channels))
    assert foldable(model, IMAGES) == {"conv": "norm"}


def test_a_linear_layer_is_found() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, affine=False), nn.ReLU())
    assert foldable(model, (torch.zeros(2, 5),)) == {"0": "1"}


def test_where_the_norm_comes_first_nothing_is_found() -> None:
    def before(self: Net, x: Tensor) -> Tensor:
        x = self.stem(x)
        return x + self.conv(F.relu(self.norm(x)))

    # The first norm reads the stem, but so does the shortcut.
    model = Net(before, stem=conv(), norm=nn.BatchNorm2d(4), conv=conv(4, 4))
    assert foldable(model, IMAGES) == {}


@pytest.mark.parametrize(
    "rule",
    [
        lambda self, x: self.norm(out := self.conv(x)) + out,
        lambda self, x: (self.norm(out := self.conv(x)), out.mean()),
        lambda self, x: self.norm(F.relu_(self.conv(x))),
        lambda self, x: self.norm(F.relu(self.conv(x))),
        lambda self, x: self.norm(self.conv(x)) + F.conv2d(x, self.conv.weight, padding=1),
        lambda self, x: self.norm(self.conv(x)) + self.norm(x.mean((1, 2, 3), True).expand_as(x)),
        lambda self, x: self.norm(self.conv(self.conv(x))),
    ],
    ids=["added", "returned", "in place", "activation", "weight read", "norm twice", "conv twice"],
)
def test_what_something_else_reads_is_not_folded(rule: Callable[[Net, Tensor], object]) -> None:
    assert foldable(Net(rule, conv=conv(3, 3), norm=nn.BatchNorm2d(3)), IMAGES) == {}


def test_one_that_is_read_elsewhere_does_not_spoil_the_others() -> None:
    def rule(self: Net, x: Tensor) -> Tensor:
        out = self.conv(x)
        return self.other_norm(self.other(F.relu(self.norm(out)) + out))

    model = Net(
        rule, conv=conv(), norm=nn.BatchNorm2d(4), other=conv(4, 4), other_norm=nn.BatchNorm2d(4)
    )
    assert foldable(model, IMAGES) == {"other": "other_norm"}


def test_layers_that_share_a_weight_are_left_alone() -> None:
    model = nn.Sequential(conv(3, 3), nn.BatchNorm2d(3), conv(3, 3), nn.BatchNorm2d(3))
    model[2].weight = model[0].weight
    assert foldable(model, IMAGES) == {}


class OwnNorm(nn.BatchNorm2d):
    pass


@pytest.mark.parametrize(
    ("layer", "norm"),
    [
        (nn.ConvTranspose2d(3, 4, 3), nn.BatchNorm2d(4)),
        (conv(), OwnNorm(4)),
        (conv(), nn.BatchNorm2d(4, track_running_stats=False)),
        (conv(), nn.GroupNorm(2, 4)),
    ],
    ids=["transposed", "own norm", "no statistics", "group norm"],
)
def test_other_classes_are_left_alone(layer: nn.Module, norm: nn.Module) -> None:
    assert foldable(nn.Sequential(layer, norm), IMAGES) == {}


def test_a_network_that_makes_float32_tensors_is_tried_in_float32() -> None:
    def rule(self: Net, x: Tensor) -> Tensor:
        return self.norm(self.conv(torch.cat((x.float(), torch.ones(2, 1, 8, 8)), 1)))

    model = Net(rule, conv=conv(4, 4), norm=nn.BatchNorm2d(4))
    assert foldable(model, IMAGES) == {"conv": "norm"}


def test_the_network_and_the_random_numbers_stay_as_they_are() -> None:
    model = Net(plain, conv=conv(), norm=nn.BatchNorm2d(4)).train()
    before, numbers = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    foldable(model, IMAGES)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), numbers)
    assert not model.conv._forward_hooks


def test_a_network_that_does_not_run_is_named() -> None:
    with pytest.raises(ModelError, match="Net does not run on example_inputs"):
        foldable(Net(plain, conv=conv(5, 4), norm=nn.BatchNorm2d(4)), IMAGES)


def test_the_trial_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    true = folding.fold_values

    def wrong(model: nn.Module, layer: str, norm: str) -> dict[str, Tensor]:
        return {name: 1.001 * value for name, value in true(model, layer, norm).items()}

    monkeypatch.setattr(folding, "fold_values", wrong)
    assert foldable(Net(plain, conv=conv(), norm=nn.BatchNorm2d(4)), IMAGES) == {}
