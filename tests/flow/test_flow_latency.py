"""A limit on latency, from the recipe to the report; by a clock that never jitters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from flow_runs import SMALL

from lissom.artifacts import load
from lissom.clock import TimeRatio
from lissom.errors import MeasureError, RecipeError
from lissom.graph.capture import capture
from lissom.measure.clock import RuntimeClock
from lissom.measure.latency import Conditions
from lissom.measure.operation import operations_of
from lissom.models.catalog import build_model
from lissom.pipeline.recipe_run import run_recipe
from lissom.recipe.read import read_recipe


class WorkClock(RuntimeClock):
    """Takes a nanosecond per multiplication, and for the network half a million more."""

    def __init__(self, conditions, example_inputs, folder=None, int8=None):
        super().__init__(conditions, example_inputs, folder, int8)
        self.inputs = example_inputs

    def nanoseconds(self, layer, input_shape):
        example = torch.empty(1, *input_shape, device="meta")
        return sum(map(_work, operations_of(layer, (example,))))

    def milliseconds(self, network, original):
        network_ms, original_ms = (
            (500_000 + sum(map(_work, operations_of(one, self.inputs)))) / 1e6
            for one in (network, original)
        )
        return network_ms, original_ms

    def ratio(self, network, reference):
        network_ms, reference_ms = self.milliseconds(network, reference)
        one = network_ms / reference_ms
        return TimeRatio(one, one, one)


class StartClock(WorkClock):
    """Takes as long again for every operation as a tenth of a million multiplications do."""

    def nanoseconds(self, layer, input_shape):
        example = torch.empty(1, *input_shape, device="meta")
        return sum(100_000 + _work(one) for one in operations_of(layer, (example,)))


def _work(operation):
    height, width = operation.size
    stride = operation.stride[0] * operation.stride[1]
    weight = torch.Size(operation.weight_shape).numel()
    return weight * height * width // stride


HMC = SMALL.splitlines()[3]
EDP = "stages: [{method: edp, statistics_images: 128}]"


def run(folder, weights, clock=WorkClock, **changes):
    """Run a recipe that trains nothing but what the method does, by a clock that never jitters."""
    recipe = folder / "recipe.yaml"
    text = SMALL.replace("WEIGHTS", str(weights)).replace("epochs: 2", "epochs: 0")
    for old, new in changes.items():
        text = text.replace(
            {"stage": HMC, "budget": "macs: 0.6", "slower": "slower: true"}[old], new
        )
    recipe.write_text(text + "latency: {runs: 20}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lissom.pipeline.timing.RuntimeClock", clock)
        result = run_recipe(read_recipe(recipe, []), folder / "out", say=lambda _line: None)
    return result, folder / "out"


@pytest.fixture(scope="module")
def finished(tmp_path_factory, weights):
    return run(tmp_path_factory.mktemp("latency"), weights, budget="latency: 0.7")


@pytest.fixture(scope="module")
def learned(tmp_path_factory, weights):
    folder = tmp_path_factory.mktemp("edp")
    return run(folder, weights, stage=EDP, budget="latency: 0.7, params: 0.9")


def timed(result):
    """Give what was timed on the way, wherever the method reports it."""
    report = result.report
    return report.methods.get("edp", report.evidence.get("method", {}))["latency"]


@pytest.mark.parametrize("method", ["finished", "learned"])
def test_the_network_keeps_the_limit_as_the_clock_measures_it(method, request):
    result, _ = request.getfixturevalue(method)
    facts = timed(result)
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


def test_what_is_learned_keeps_the_other_limits_and_its_support(learned):
    result, _ = learned
    assert result.report.compressed.params <= 0.9 * result.report.original.params
    facts = timed(result)
    predicted = facts["attempts"][facts["chosen"]]["layers_ms"]
    clock = WorkClock(Conditions(), (torch.zeros(1, 1, 8, 8),))
    taken, _ = clock.milliseconds(result.model, result.model)
    assert taken - 0.5 == pytest.approx(predicted, rel=0.05)


class BusyClock(WorkClock):
    """Can tell nothing of single layers."""

    def nanoseconds(self, layer, input_shape):
        raise MeasureError("the machine is too busy")


@pytest.mark.parametrize("stage", [HMC, EDP])
def test_a_report_owns_up_to_decisions_that_nobody_could_check(stage, tmp_path, weights):
    result, _ = run(tmp_path, weights, BusyClock, stage=stage, slower="slower: false")
    (said,) = [one for one in result.report.warnings if "too busy" in one]
    assert said.startswith("which decisions cost time is not known")


@pytest.mark.parametrize(
    ("stage", "reason"),
    [
        (EDP.replace("}]", ", split: channel}]"), "cut at the start of the training"),
        ("stages: [{method: edp, mode: faithful}]", "cut at the start of the training"),
    ],
)
def test_a_ramp_knows_no_limit_on_latency(stage, reason, tmp_path, weights):
    with pytest.raises(RecipeError, match=reason):
        run(tmp_path, weights, stage=stage, budget="latency: 0.7")


def test_under_other_budgets_nothing_that_costs_time_is_done(tmp_path, weights):
    stage = HMC.replace("fractions", "variant: decompose_only, fractions")
    result, _ = run(
        tmp_path, weights, StartClock, stage=stage, budget="macs: 0.8", slower="slower: false"
    )
    facts = result.report.evidence["method"]["never_slower"]
    assert facts["left_out"]
    assert not facts["taken_all_the_same"]
    clock = StartClock(Conditions(), (torch.zeros(1, 1, 8, 8),))
    original = build_model("lissom:digits_resnet")
    graph = capture(original, clock.inputs)
    decomposed = [row.name for row in result.report.layers if row.decision]
    assert decomposed
    for name in decomposed:
        shape = graph.layer(name).input_shape
        new, old = (network.get_submodule(name).to("meta") for network in (result.model, original))
        assert clock.nanoseconds(new, shape) <= 1.02 * clock.nanoseconds(old, shape) + 1_000
