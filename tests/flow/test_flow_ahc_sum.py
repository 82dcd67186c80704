"""Sums of a sparse and a low-rank layer through a whole run, quantized by its second stage."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from flow_runs import SMALL, Finished, assert_columns_add_up

from lissom.artifacts import load, load_plan, weights_content
from lissom.export.runtime import OnnxSession
from lissom.graph.capture import capture
from lissom.pipeline.recipe_run import run_recipe
from lissom.plan.quantize import Quantize
from lissom.plan.sparse_plus import SparsePlusLowRank, SparsePlusSVD
from lissom.recipe.read import read_recipe

STAGES = """stages:
- {method: ahc_sum, images: 128, statistics_images: 256, fractions: [0.5]}
- {method: ajc, mode: post_training}"""


@pytest.fixture(scope="module")
def ran(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Two stages: sums first, then levels for all their parts."""
    folder = tmp_path_factory.mktemp("sums")
    text = SMALL.replace("WEIGHTS", os.fspath(weights)).replace("0.6}", "0.6, size: 6x}")
    lines = [STAGES if line.startswith("stages") else line for line in text.splitlines()]
    (folder / "recipe.yaml").write_text("\n".join(lines))
    recipe, said = read_recipe(folder / "recipe.yaml"), []
    result = run_recipe(recipe, folder / "out", say=said.append)
    return Finished(recipe, folder / "out", result, said)


def test_the_run_ends_in_sums_within_the_budget(ran: Finished) -> None:
    plan = load_plan(ran.out)
    sums = {one.layer for one in plan.decisions if isinstance(one, SparsePlusSVD)}
    found = load(ran.out)
    assert sums
    assert all(isinstance(found.get_submodule(layer), SparsePlusLowRank) for layer in sums)
    counted = capture(found, (torch.zeros(1, 1, 8, 8),)).cost
    report = json.loads((ran.out / "report.json").read_text())
    assert report["compressed"]["macs"] == counted.macs <= 0.6 * report["original"]["macs"]
    assert report["compressed"]["params"] == counted.params
    assert all(row["met"] for row in report["budget"].values())
    levels = [one for one in plan.decisions if isinstance(one, Quantize)]
    assert {f"{layer}.{part}" for layer in sums for part in ("sparse", "first", "last")} <= {
        one.layer for one in levels
    }
    for quantized in levels:
        assert found.get_submodule(quantized.layer).weight.count_nonzero() == quantized.nonzero


def test_every_file_holds_the_network_to_the_bit(ran: Finished) -> None:
    images = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        expected = ran.result.model(images)
        for path in (ran.out, ran.out / "model.lsm"):
            assert weights_content(load(path)) == weights_content(ran.result.model)
            assert torch.equal(load(path)(images), expected)
    assert any(not torch.equal(b, b.sort().values) for b in _orders(load(ran.out)))
    (found,) = OnnxSession(ran.out / "model.onnx")(images)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_report_says_what_became_of_each_layer(ran: Finished) -> None:
    report = json.loads((ran.out / "report.json").read_text())
    assert_columns_add_up(report)
    rows = [row for row in report["layers"] if "sparse_plus_svd" in row["decision"]]
    assert rows
    for row in rows:
        assert row["group"] == "decompose"
        assert row["after"]["in_channels"] == row["before"]["in_channels"]
        assert row["after"]["rank_in"] is None


def _orders(network: torch.nn.Module) -> list[torch.Tensor]:
    return [m.order for m in network.modules() if isinstance(m, SparsePlusLowRank)]
