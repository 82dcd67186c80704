"""A limit on latency, from the recipe to the report; by a clock that never jitters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from flow_runs import SMALL

from lissom.artifacts import load
from lissom.measure.operation import operations_of
from lissom.pipeline.recipe_run import run_recipe
from lissom.recipe.read import read_recipe


class WorkClock:
    """Takes a nanosecond per multiplication, and for the network half a million more."""

    def __init__(self, conditions, example_inputs, folder=None):
        self.conditions, self.inputs = conditions, example_inputs

    def nanoseconds(self, layer, input_shape):
        example = torch.empty(1, *input_shape, device="meta")
        return sum(map(_work, operations_of(layer, (example,))))

    def milliseconds(self, networks):
        return {
            name: (500_000 + sum(map(_work, operations_of(one, self.inputs)))) / 1e6
            for name, one in networks.items()
        }


def _work(operation):
    height, width = operation.size
    stride = operation.stride[0] * operation.stride[1]
    weight = torch.Size(operation.weight_shape).numel()
    return weight * height * width // stride


@pytest.fixture(scope="module")
def finished(tmp_path_factory, weights):
    folder = tmp_path_factory.mktemp("latency")
    recipe = folder / "recipe.yaml"
    text = SMALL.replace("WEIGHTS", str(weights)).replace("macs: 0.6", "latency: 0.7")
    recipe.write_text(text.replace("epochs: 2", "epochs: 0") + "latency: {runs: 20}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lissom.pipeline.job.RuntimeClock", WorkClock)
        result = run_recipe(read_recipe(recipe, []), folder / "out", say=lambda _line: None)
    return result, folder / "out"


def test_the_network_keeps_the_limit_as_the_clock_measures_it(finished):
    result, _ = finished
    facts = result.report.evidence["method"]["latency"]
    chosen = facts["attempts"][facts["chosen"]]
    assert chosen["measured_ms"] <= chosen["limit_ms"]
    assert chosen["limit_ms"] == pytest.approx(0.7 * facts["original_ms"])
    assert chosen["measured_ms"] > 0.6 * facts["original_ms"]
    assert result.plan.decisions


def test_the_report_has_the_limit_beside_what_the_runtime_took(finished):
    result, out = finished
    (row,) = result.report.budget
    assert (row.quantity, row.asked, row.smallest) == ("latency", "0.7", None)
    before, after = result.report.original.latency_ms, result.report.compressed.latency_ms
    assert row.limit == pytest.approx(0.7 * before)
    assert row.measured == after
    assert row.met == (after <= 1.05 * row.limit)
    saved = json.loads((out / "report.json").read_text())
    assert saved["settings"]["latency"]["runs"] == 20


def test_the_folder_loads_and_the_recipe_repeats_the_conditions(finished):
    result, out = finished
    image = torch.zeros(1, 1, 8, 8)
    assert torch.equal(load(out)(image), result.model(image))
    again = read_recipe(Path(out / "recipe.yaml"), [])
    assert again.conditions().runs == 20
    assert str(again.limits) == "latency=0.7"
