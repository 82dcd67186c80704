"""Public networks: every layer accounted for, and the share that nothing can be done to."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path

import pytest
import torch

from lissom.graph.capture import capture
from lissom.graph.cut import keep_channels
from lissom.graph.offers import decomposable_layers, prunable_layers
from lissom.graph.trial_choice import evened

GOLDEN = Path(__file__).with_name("frozen_share.json")
FAST = [
    "torchvision:mobilenet_v2",
    "torchvision:regnet_y_400mf",
    "torchvision:shufflenet_v2_x1_0",
    "torchvision:googlenet",
    "timm:mobilenetv2_100",
    "timm:regnety_004",
    "timm:efficientnet_b0",
]
SLOW = [
    "torchvision:resnet50",
    "torchvision:densenet121",
    "torchvision:efficientnet_b0",
    "torchvision:convnext_tiny",
    "timm:resnet50",
    "timm:densenet121",
    "timm:convnext_tiny",
    "timm:ghostnet_100",
    "timm:inception_v3",
]
NAMES = [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


def build(name):
    library, _, model = name.partition(":")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if library == "timm":
            import timm

            return timm.create_model(model).eval()
        import torchvision

        return torchvision.models.get_model(model, weights=None).eval()


def frozen_share(graph) -> float:
    convolutions = [layer for layer in graph.layers if layer.kind.startswith("conv")]
    offered = prunable_layers(graph) | decomposable_layers(graph)
    lost = sum(layer.cost.macs for layer in convolutions if layer.name not in offered)
    return lost / sum(layer.cost.macs for layer in convolutions)


def choose(group):
    """Remove 30 % of the channels, as far as the balance allows."""
    removed = evened(group, set(range(0, group.channels, 10)))
    for third in (3, 6):
        more = (
            None
            if removed is None
            else evened(group, removed | set(range(third, group.channels, 10)))
        )
        removed = more or removed
    return [c for c in range(group.channels) if c not in (removed or ())]


@pytest.mark.parametrize("name", NAMES)
def test_public_network(name):
    torch.manual_seed(0)
    model = build(name)
    x = torch.randn(2, 3, 96, 96)
    graph = capture(model, (x,))
    owners = {n for n, m in model.named_modules() if list(m.parameters(recurse=False))}
    assert {layer.name for layer in graph.layers} == owners
    assert graph.cost.params == sum(p.numel() for p in model.parameters())
    share = frozen_share(graph)
    golden = json.loads(GOLDEN.read_text())
    assert share <= golden[name] + 5e-5, "the frozen share may only fall"
    assert share <= 0.10

    free = [g for g in graph.groups if g.frozen_because is None]
    choices = [(g, choose(g)) for g in free]
    cut = copy.deepcopy(model)
    for decision in keep_channels(choices):
        decision.apply(cut)
    total = sum(g.channels for g in free)
    assert sum(g.channels - len(kept) for g, kept in choices) >= 0.25 * total
    with torch.no_grad():
        assert cut(x).shape == model(x).shape
    assert sum(p.numel() for p in cut.parameters()) < graph.cost.params


def test_the_golden_file_names_every_network():
    names = [*FAST, *SLOW]
    assert sorted(json.loads(GOLDEN.read_text())) == sorted(names)
