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
# Networks on which the two differ, and how many groups they have in common. Each reason was read in
# Torch-Pruning 1.6.1 and seen in the groups that it builds:
# - It numbers the pieces of a split in the order in which it meets their readers, walking back from
#   the output (update_split_index_mapping), not by their place in the split; a piece that is read
#   twice counts as two.
# - It takes a piece's size from its reader (init_shape_information): where that concatenates, the
#   width of the whole concatenation. The sizes then do not add up, and update_concat_index_mapping
#   leaves the concatenation without offsets, as if its inputs were added.
# - It guesses from the channels of the convolutions on both sides by how much a view multiplies or
#   divides them (update_reshape_index_mapping).
DIFFERENT = {
    # Half of conv_exp goes into a concatenation of 256: counted as 256 + 128 + 128, and the other
    # input of the concatenation coupled to it. The two can be cut apart, and exactly.
    "timm:cspresnet50": 35,
    # The same with four pieces: 234 channels where conv1 has 104.
    "timm:res2net50_26w_4s": 22,
    # The same in stages 1 to 3 (96 channels where there are 48). In the cross-covariance attention
    # q and k are read twice, so that q, k and v count as five pieces of 144 / 5 channels.
    "timm:edgenext_xx_small": 14,
    # The halves of a split are exchanged: conv_pwl.0 is coupled with conv_pw.1, which does not read
    # its channels. Ours hold both halves, because a split cuts them evenly.
    "timm:mixnet_s": 33,
    # Four views in a row that keep all 128 channels are taken to halve them each: 8 are left.
    "timm:resnest14d": 16,
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
