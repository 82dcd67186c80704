import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from flow_runs import Finished, assert_columns_add_up

from lissom.artifacts import load, load_plan, load_report, weights_content
from lissom.cli.app import run
from lissom.graph.capture import capture
from lissom.models.catalog import build_model
from lissom.models.weights import load_weights
from lissom.plan.build import build

FILES = ["model.onnx", "plan.json", "recipe.yaml", "report.json", "weights.safetensors"]


@pytest.fixture
def report(finished: Finished) -> dict[str, Any]:
    return json.loads((finished.out / "report.json").read_text())


def test_exactly_the_promised_files_are_written(finished: Finished) -> None:
    assert sorted(path.name for path in finished.out.iterdir()) == FILES


def test_load_gives_the_bits_of_the_result(finished: Finished) -> None:
    loaded, images = load(finished.out), torch.randn(4, 1, 8, 8)
    assert weights_content(loaded) == weights_content(finished.result.model)
    assert torch.equal(loaded(images), finished.result.model(images))
    given = load(finished.out, model=build_model("lissom:digits_resnet"))
    assert weights_content(given) == weights_content(loaded)


def test_load_imports_no_training_code(finished: Finished) -> None:
    code = (
        "import sys, lissom\n"
        "lissom.load(sys.argv[1])\n"
        "unwanted = ('lissom.train', 'lissom.data', 'lissom.methods', 'lissom.pipeline',\n"
        "            'lightning', 'lightning_fabric', 'sklearn', 'onnxruntime', 'pydantic')\n"
        "print([name for name in sys.modules if name.startswith(unwanted)])\n"
    )
    command = [sys.executable, "-c", code, str(finished.out)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_budget_is_met_as_measured(finished: Finished, report: dict[str, Any]) -> None:
    counted = capture(load(finished.out), (torch.zeros(1, 1, 8, 8),)).cost
    assert (report["compressed"]["params"], report["compressed"]["macs"]) == (
        counted.params,
        counted.macs,
    )
    row = report["budget"]["macs"]
    assert row["met"] is True
    assert row["measured"] == counted.macs <= row["limit"] == int(0.6 * report["original"]["macs"])
    assert report["predicted"] == {"params": counted.params, "macs": counted.macs}


def test_the_report_has_the_promised_fields(finished: Finished, report: dict[str, Any]) -> None:
    wanted = ("original", "compressed", "budget", "layers", "refusals", "provenance", "onnx")
    assert report.keys() >= set(wanted)
    for side in ("original", "compressed"):
        measured = report[side]
        assert measured.keys() >= {"params", "macs", "size_bytes", "latency_ms", "latency"}
        assert measured["metric"] == {
            "name": "accuracy",
            "value": measured["accuracy"],
            "unit": "fraction",
            "higher_is_better": True,
        }
        assert 0 <= measured["accuracy"] <= 1
        assert measured["latency_ms"] > 0
        assert measured["latency"].keys() >= {"median_ms", "batch", "threads", "runs", "runtime"}
    assert 0 <= report["compressed"]["accuracy_raw"] <= 1
    size = (finished.out / "weights.safetensors").stat().st_size
    assert report["compressed"]["size_bytes"] == size
    origin = report["provenance"]
    assert origin["seed"] == 3
    assert origin["versions"].keys() >= {"lissom", "torch", "python"}


def test_the_rows_of_the_layers_add_up(finished: Finished, report: dict[str, Any]) -> None:
    assert_columns_add_up(report)
    report["layers"][0]["after"]["macs"] += 1
    with pytest.raises(AssertionError):
        assert_columns_add_up(report)


def test_norm_layers_follow_and_are_in_no_group(report: dict[str, Any]) -> None:
    norms = [row for row in report["layers"] if row["kind"] == "batch_norm"]
    assert norms
    assert {row["group"] for row in norms} == {""}
    cut = [row for row in norms if row["after"]["params"] < row["before"]["params"]]
    assert {row["decision"] for row in cut} <= {"cut with the layers around it"}


def test_the_report_reads_back(finished: Finished) -> None:
    assert load_report(finished.out).to_dict() == finished.result.report.to_dict()


def test_the_plan_replays_on_the_original(finished: Finished, report: dict[str, Any]) -> None:
    plan = load_plan(finished.out)
    assert plan == finished.result.plan
    shapes = [tuple(t.shape) for t in finished.result.model.state_dict().values()]
    rebuilt = build(build_model("lissom:digits_resnet"), plan)
    assert [tuple(t.shape) for t in rebuilt.state_dict().values()] == shapes


def test_onnx_runtime_agrees_with_torch(finished: Finished) -> None:
    session = onnxruntime.InferenceSession(
        finished.out / "model.onnx", providers=["CPUExecutionProvider"]
    )
    images = torch.randn(5, 1, 8, 8)
    (outputs,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    # Sums in another order: some 1e-6 of the largest output.
    np.testing.assert_allclose(outputs, load(finished.out)(images).detach(), atol=1e-4)


def test_the_feasibility_table_comes_before_any_measurement(finished: Finished) -> None:
    assert finished.said[0].startswith("budget")
    assert finished.said[1].startswith("evaluate original: accuracy")


def test_the_effective_recipe_repeats_the_run(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = tmp_path / "again"
    assert run(["compress", str(finished.out / "recipe.yaml"), "--out", str(again)]) == 0
    for name in ("weights.safetensors", "plan.json", "recipe.yaml"):
        assert (again / name).read_bytes() == (finished.out / name).read_bytes(), name
    reports = [load_report(out).provenance.plan_hash for out in (again, finished.out)]
    assert reports[0] == reports[1]
    assert capsys.readouterr().out.startswith("lissom:digits_resnet compressed by hmc\n")


def test_a_run_can_be_compressed_again(finished: Finished, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    command = ["compress", "--model", str(finished.out), "--data", "digits", "--epochs", "0"]
    small = ("images=128", "statistics_images=256", "fractions=[0.5]")
    settings = [part for one in small for part in ("--set", f"stages.0.{one}")]
    assert run([*command, *settings, "--budget", "macs=0.7", "--out", str(out)]) == 0
    first, both = load_plan(finished.out), load_plan(out)
    assert both.decisions[: len(first.decisions)] == first.decisions
    assert len(both.decisions) > len(first.decisions)
    assert (both.source, both.signature) == (first.source, first.signature)
    report = load_report(out)
    assert report.original.macs == finished.result.report.compressed.macs
    assert report.compressed.macs <= 0.7 * report.original.macs
    assert_columns_add_up(report.to_dict())
    original = build_model("lissom:digits_resnet")
    load_weights(original, weights)
    assert weights_content(load(out, model=original)) == weights_content(load(out))


@pytest.mark.parametrize("flags", [(), ("--resume",)])
def test_a_finished_run_is_never_written_over(
    finished: Finished, recipe_file: Path, flags: tuple[str, ...], capsys: Any
) -> None:
    before = {path.name: path.read_bytes() for path in finished.out.iterdir()}
    assert run(["compress", str(recipe_file), "--out", str(finished.out), *flags]) == 2
    assert "holds a finished run" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in finished.out.iterdir()} == before
