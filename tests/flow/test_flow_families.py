"""Every family through everything that reads a network or a plan: files, ONNX, another cut."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lissom.artifacts import Artifacts, load, load_plan, pack_folder, save
from lissom.export.onnx import export_onnx
from lissom.export.runtime import OnnxSession
from lissom.graph.capture import capture
from lissom.lowrank.families import BY_NAME
from lissom.methods.weights import WeightMath
from lissom.models.catalog import build_model
from lissom.plan.build import apply_values, build
from lissom.plan.plan import Plan, Source
from lissom.report.inspection import inspection
from lissom.search.price import Configuration, LowRank, Pricer

IMAGE = (torch.zeros(1, 3, 32, 32),)


@pytest.fixture(scope="module")
def decomposed() -> tuple[nn.Module, Plan, Configuration, Pricer]:
    """Decompose one 3x3 convolution of ResNet-8 by each family, strided ones among them."""
    torch.manual_seed(0)
    model = build_model("lissom:resnet8").eval()
    graph = capture(model, IMAGE)
    pricer = Pricer(model, graph)
    layers = [
        name
        for name, shape in pricer.shapes.items()
        if shape.is_separable and shape.in_channels > 3
    ]
    assert len(layers) >= len(BY_NAME)
    low_rank = {}
    for layer, family in zip(layers, BY_NAME.values(), strict=False):
        low_rank[layer] = LowRank(family.name, family.relative(pricer.shapes[layer], 0.4))
    configuration = Configuration({}, low_rank)
    decisions, values = WeightMath(model, graph, {}).realise(configuration)
    plan = Plan.starting_from(model, Source("lissom:resnet8")) + Plan(decisions)
    network = build(model, plan)
    apply_values(network, {**network.state_dict(), **values})
    return network.eval(), plan, configuration, pricer


def test_price_and_inspection_agree_with_the_built_network(decomposed) -> None:
    network, _, configuration, pricer = decomposed
    graph = capture(network, IMAGE)
    assert pricer.price(configuration) == graph.cost
    found = inspection(network, graph)
    assert found is not None


def test_files_bring_back_every_bit(decomposed, tmp_path: Path) -> None:
    network, plan, _, _ = decomposed
    save(tmp_path, Artifacts(model=network, plan=plan))
    assert load_plan(tmp_path).decisions == plan.decisions
    (tmp_path / "model.lsm").write_bytes(pack_folder(tmp_path).packed.content)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = network(images)
        for path in (tmp_path, tmp_path / "model.lsm"):
            assert torch.equal(load(path)(images), expected)


def test_onnx_computes_the_same(decomposed, tmp_path: Path) -> None:
    network, _, _, _ = decomposed
    export_onnx(network, IMAGE, tmp_path / "model.onnx")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = network(images)
    (found,) = OnnxSession(tmp_path / "model.onnx")(images)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_later_stage_can_cut_the_parts(decomposed) -> None:
    network, _, _, _ = decomposed
    graph = capture(network, IMAGE)
    cuttable = {
        member.tensor
        for group in graph.groups
        if group.frozen_because is None
        for member in group.members
    }
    for name, module in network.named_modules():
        if isinstance(module, nn.Sequential) and "first" in dict(module.named_children()):
            assert f"{name}.first.weight" in cuttable, name
    pricer = Pricer(network, graph)
    weights = WeightMath(network, graph, {})
    for group in graph.groups:
        if group.frozen_because is None and ".first" in group.name:
            kept = tuple(range(0, group.channels, 2)) if group.balance else (0, 1)
            configuration = Configuration({group.name: kept})
            decisions, values = weights.realise(configuration)
            cut = build(network, Plan(decisions))
            apply_values(cut, {**cut.state_dict(), **values})
            assert capture(cut.eval(), IMAGE).cost == pricer.price(configuration), group.name
