"""Channel groups against those of Torch-Pruning, an independent implementation."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch_pruning
from torch import nn

from lissom.graph.channels import ChannelIds
from lissom.graph.coupling import couple
from lissom.graph.groups import channel_groups
from lissom.graph.layers import Role
from lissom.graph.trace import private_copy, trace

FAST = [
    "torchvision:resnet18",
    "torchvision:mobilenet_v2",
    "torchvision:squeezenet1_1",
    "torchvision:mnasnet0_5",
    "torchvision:mobilenet_v3_small",
    "torchvision:regnet_x_400mf",
    "torchvision:regnet_y_400mf",
    "torchvision:efficientnet_b0",
    "torchvision:googlenet",
    "torchvision:resnext50_32x4d",
    "torchvision:convnext_tiny",
    "torchvision:resnet50",
    "torchvision:densenet121",
    "timm:ghostnet_100",
    "timm:mobilenetv3_small_050",
    "timm:lcnet_050",
    "timm:tf_efficientnet_lite0",
    "timm:fbnetc_100",
    "timm:hardcorenas_a",
    "timm:skresnet18",
    "timm:dla34",
    "timm:vovnet39a",
    "timm:selecsls42",
    "timm:gernet_s",
    "timm:repvgg_a0",
    "timm:resnetv2_50",
    "timm:hrnet_w18_small",
]
SLOW = ["torchvision:wide_resnet50_2", "torchvision:vgg11_bn", "torchvision:efficientnet_v2_s"]
# Networks on which the two differ, with the reason; the number of groups in common is checked.
DIFFERENT = {
    # Torch-Pruning couples the two halves of a split with each other where they meet again in a
    # concatenation, as if they were added; cutting only one of them works and is exact.
    "timm:cspresnet50": 35,
    # Torch-Pruning counts the four pieces of a split, and what they are concatenated with, several
    # times (468 channels where conv1 has 208); each piece has its own channels.
    "timm:res2net50_26w_4s": 22,
}
KINDS = (nn.Conv2d, nn.Linear, nn.ConvTranspose2d)


def build(name: str) -> nn.Module:
    library, _, model = name.partition(":")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if library == "timm":
            import timm

            return timm.create_model(model).eval()
        import torchvision

        return torchvision.models.get_model(model, weights=None).eval()


def theirs(model: nn.Module, x: torch.Tensor) -> set[frozenset]:
    """Give each group as a set of (layer, axis, number of channels)."""
    model = copy.deepcopy(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=x)
        names = {module: name for name, module in model.named_modules()}
        found = set()
        for group in graph.get_all_groups(root_module_types=KINDS):
            members = set()
            for dependency, indices in group:
                module = dependency.target.module
                if isinstance(module, KINDS):
                    out = graph.is_out_channel_pruning_fn(dependency.handler)
                    members.add((names[module], "out" if out else "in", len(set(indices))))
            found.add(frozenset(members))
    return found


def ours(model: nn.Module, x: torch.Tensor) -> set[frozenset]:
    ids = ChannelIds()
    couple(trace(private_copy(model), (x,)), model, ids)
    sides = {Role.OUTPUT: "out", Role.INPUT: "in"}
    return {
        frozenset(
            (m.tensor.removesuffix(".weight"), sides[m.role], sum(k >= 0 for k in m.labels))
            for m in one.group.members
            if m.role in sides and m.tensor.endswith(".weight")
        )
        for one in channel_groups(ids)
    }


X = torch.zeros(2, 3, 64, 64)


@pytest.mark.parametrize("name", [*FAST, *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def test_groups_are_the_same(name):
    model = build(name)
    assert ours(model, X) == theirs(model, X)


@pytest.mark.slow
@pytest.mark.parametrize("name", DIFFERENT)
def test_known_differences_stay_as_they_are(name):
    model = build(name)
    assert len(ours(model, X) & theirs(model, X)) == DIFFERENT[name]


def test_the_oracle_sees_a_missing_coupling(monkeypatch):
    """Without the rule of the sum, the groups of a residual network differ."""
    from lissom.graph import operators

    monkeypatch.setitem(operators.TABLE, "add", operators.in_first)
    model = build("torchvision:resnet18")
    assert ours(model, X) != theirs(model, X)
