from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from int8_samples import float_content, images, plain, sample_data, seeded
from torch import nn

from lissom.errors import DataError, ExportError
from lissom.export import int8, int8_check
from lissom.export.graph import OnnxGraph
from lissom.export.int8 import Int8Check, Int8Data, Int8Settings, export_int8
from lissom.export.int8_balance import correct_biases, equalize, find_chains
from lissom.export.int8_check import agreement, check_kernels
from lissom.export.int8_choice import FloatBudget, Harm, choose_float
from lissom.export.int8_observe import observe
from lissom.export.int8_operators import with_integer_kernels
from lissom.export.onnx import onnx_content
from lissom.export.qdq import Int8Layout, layer_names, tensors_to_observe, write_qdq
from lissom.export.runtime import OnnxSession
from lissom.models.catalog import build_model
from lissom.quantization.activation_ranges import collect_ranges


def chained() -> nn.Module:
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1, groups=16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 16, 1),
            nn.ReLU6(),
            nn.Conv2d(16, 8, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 5),
        )
    )


@pytest.fixture(scope="module")
def content() -> bytes:
    return float_content(chained())


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Int8Check]:
    path = tmp_path_factory.mktemp("int8") / "m.onnx"
    settings = Int8Settings(budget=FloatBudget(keep_float=1))
    return path, export_int8(plain(), (images(1),), path, sample_data(), settings)


def test_says_what_runs_as_what_and_how_close_it_is(exported: tuple[Path, Int8Check]) -> None:
    path, check = exported
    assert check.size_bytes == path.stat().st_size
    assert check.original.dynamic_batch
    assert set(check.harms) == {"0", "4", "8"}
    worst = max(check.harms, key=lambda name: check.harms[name])
    assert check.kept_float == (worst,)
    assert [name for name, kind in check.runs.items() if kind == "float"] == [worst]
    assert check.operators["QLinearConv"] + check.operators.get("QGemm", 0) == 2
    assert check.float_agreement.samples == 32
    assert check.float_agreement.top1 > 0.9
    assert 0 < check.harm < 1e-3


def test_layers_that_are_faster_in_float_stay_so(tmp_path: Path) -> None:
    asked: list[frozenset[str]] = []

    def slow(_content: bytes, layout: Int8Layout) -> tuple[frozenset[str], dict[str, Any]]:
        asked.append(layout.layers)
        return frozenset({"4"}), {"layers": ["4"]}

    settings = Int8Settings(estimator="min_max", faster_in_float=slow)
    check = export_int8(plain(), (images(1),), tmp_path / "m.onnx", sample_data(), settings)
    assert check.kept_float == ("4",)
    assert check.runs["4"] == "float"
    assert check.faster_in_float == {"layers": ["4"]}
    assert asked == [frozenset({"0", "4", "8"})]
    assert settings == Int8Settings(estimator="min_max")


def test_a_layout_of_another_file_is_refused(tmp_path: Path) -> None:
    layout = Int8Layout({}, frozenset(["0"]))
    with pytest.raises(ExportError, match="does not fit the network's ONNX file, which differs in"):
        export_int8(
            plain(), (images(1),), tmp_path / "m.onnx", sample_data(), Int8Settings(), layout
        )
    assert not list(tmp_path.iterdir())


def test_the_least_harmful_preparation_is_taken(exported: tuple[Path, Int8Check]) -> None:
    tried = exported[1].tried
    assert {"min_max", "percentile", "mse"} <= tried.keys()
    assert sum(name.endswith("biases corrected") for name in tried) == 1


def test_a_network_without_layers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="has no convolution or linear layer"):
        export_int8(nn.ReLU(), (images(1),), tmp_path / "m.onnx", sample_data(), Int8Settings())
    assert not list(tmp_path.iterdir())


def test_settings_and_data_that_mean_nothing() -> None:
    with pytest.raises(ValueError, match="estimator 'median': expected auto, min_max"):
        Int8Settings(estimator="median")
    with pytest.raises(ValueError, match="equalize='maybe': expected auto, always or never"):
        Int8Settings(equalize="maybe")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="keep_float=-1"):
        FloatBudget(keep_float=-1)
    with pytest.raises(ValueError, match="max_harm=nan"):
        FloatBudget(max_harm=float("nan"))
    with pytest.raises(DataError, match="calibration: no images"):
        Int8Data([], sample_data().held_out, sample_data().distance)


def test_kernels_that_compute_something_else_are_refused(
    content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Saturating(OnnxSession):
        def __init__(self, model: bytes, **options: object) -> None:
            super().__init__(model, **options)  # type: ignore[arg-type]
            self._factor = 1.0 if options.get("optimise") == "none" else 0.8

        def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(self._factor * output for output in super().__call__(*inputs))

    assert check_kernels(content, [(images(8),)]).top1 == 1
    monkeypatch.setattr(int8_check, "OnnxSession", Saturating)
    with pytest.raises(ExportError, match=r"without VNNI ask for 7-bit weights"):
        check_kernels(content, [(images(8),)])


def test_equalization_changes_weights_and_not_the_function(content: bytes) -> None:
    graph = OnnxGraph(content)
    pairs = [(chain.first.name, chain.second.name) for chain in find_chains(graph)]
    assert pairs == [("0", "2"), ("2", "5"), ("7", "10")]  # a ReLU6 stands between 5 and 7
    equalized, count = equalize(content, sample_data().calibration)
    assert count == 3
    before, after = graph.constants, OnnxGraph(equalized).constants
    assert not np.allclose(before["2.weight"], after["2.weight"], rtol=0.01)
    (expected,), (found,) = OnnxSession(content)(images(4)), OnnxSession(equalized)(images(4))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_weights_on_a_grid_are_not_torn_off_it(content: bytes) -> None:
    graph = OnnxGraph(content)
    weight = graph.constants["5.weight"]
    graph.constants["5.weight"] = (np.rint(weight / 0.1) * 0.1).astype(np.float32)
    assert "5" not in [chain.second.name for chain in find_chains(OnnxGraph(graph.content()))]


def coarse(content: bytes) -> Int8Layout:
    ranges = collect_ranges(
        observe(content, tensors_to_observe(content), sample_data().calibration), "min_max"
    )
    return Int8Layout(ranges, frozenset(layer_names(content)), reduce_range=True)


def test_bias_correction_brings_the_means_back(content: bytes) -> None:
    layout = coarse(content)
    data = sample_data().calibration
    corrected = correct_biases(content, layout, data)

    def mean_gap(one: bytes) -> float:
        rounded, exact = OnnxSession(write_qdq(one, layout)), OnnxSession(content)
        gaps = [(rounded(*batch)[0] - exact(*batch)[0]).mean(dim=0) for batch in data]
        return float(torch.stack(gaps).mean(dim=0).abs().max())

    assert mean_gap(corrected) < 0.7 * mean_gap(content)


def test_harm_is_zero_only_for_the_float_network(content: bytes) -> None:
    def gap(ours: tuple[torch.Tensor, ...], reference: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return (ours[0] - reference[0]).abs().mean()

    harm = Harm(content, sample_data().calibration, gap)
    assert harm(content) == 0
    assert harm(write_qdq(content, coarse(content))) > 1e-4


def test_layers_leave_int8_worst_first_until_the_harm_is_met() -> None:
    harms = {"a": 0.1, "b": 0.4, "c": 0.2, "d": 0.3}
    asked: list[frozenset[str]] = []

    def measure(layers: frozenset[str]) -> float:
        asked.append(layers)
        return sum(harms[name] for name in layers)

    def choose(budget: FloatBudget) -> frozenset[str]:
        return choose_float(measure, harms, budget)

    assert choose(FloatBudget(keep_float=2)) == {"b", "d"}
    assert not asked
    assert choose(FloatBudget(max_harm=1.1)) == frozenset()
    assert choose(FloatBudget(max_harm=0.35)) == {"b", "d"}
    assert choose(FloatBudget(max_harm=0.0)) == set(harms)
    assert choose(FloatBudget(keep_float=3, max_harm=0.65)) == {"b", "c", "d"}


def test_simplified_networks_compute_the_same_with_fewer_operators() -> None:
    model = seeded(lambda: build_model("lissom:digits_resnet"))
    content, _ = onnx_content(model, (images(1, 8, 1),))
    short = with_integer_kernels(content)
    kinds = [node.op_type for node in OnnxGraph(short).nodes]
    assert not {"Slice", "Pad", "ReduceMean"} & set(kinds)
    assert {"Slice", "Pad", "ReduceMean"} <= {node.op_type for node in OnnxGraph(content).nodes}
    batch = images(3, 8, 1)
    torch.testing.assert_close(OnnxSession(short)(batch), OnnxSession(content)(batch))


def test_agreement_sees_a_difference() -> None:
    reference = [(torch.tensor([[1.0, 2.0], [3.0, 1.0]]),)]
    other = [(torch.tensor([[1.0, 2.0], [0.0, 1.0]]),)]
    found = agreement(other, reference)
    assert (found.top1, found.max_difference, found.scale, found.samples) == (0.5, 3.0, 3.0, 2)
    assert agreement(reference, reference).top1 == 1


def test_slices_of_a_batch_fit_into_memory(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = tensors_to_observe(content)
    whole = list(observe(content, tensors, [(images(6),)]))
    assert len(whole) == 1
    monkeypatch.setattr("lissom.export.int8_observe._MEMORY", 1)
    parts = list(observe(content, tensors, [(images(6),)]))
    assert len(parts) == 6
    for name in tensors:
        torch.testing.assert_close(torch.cat([part[name] for part in parts]), whole[0][name])


def test_estimators_are_the_documented_ones() -> None:
    assert int8.AUTO == "auto"
    assert list(int8.ESTIMATORS) == ["min_max", "percentile", "mse"]
