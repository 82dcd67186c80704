from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from int8_samples import float_content, images, plain, seeded
from torch import Tensor, nn

from lissom.export.graph import OnnxGraph
from lissom.export.int8_check import operators_as_run
from lissom.export.int8_observe import observe
from lissom.export.int8_places import find_places
from lissom.export.int8_weights import on_levels, weight_steps
from lissom.export.qdq import (
    Int8Layout,
    layer_names,
    tensors_to_observe,
    write_qdq,
)
from lissom.export.runtime import OnnxSession
from lissom.models.catalog import build_model
from lissom.quantization.activation_ranges import collect_ranges


def layout(content: bytes, size: int = 16) -> Int8Layout:
    ranges = collect_ranges(
        observe(content, tensors_to_observe(content), [(images(16, size),)]), "min_max"
    )
    return Int8Layout(ranges, frozenset(layer_names(content)))


def pools(content: bytes) -> list[tuple[str, str]]:
    places = find_places(OnnxGraph(content))
    return [(one.node.op_type, one.output) for one in places if one.kind == "pool"]


def rounded(values: Tensor, scale: float, zero: int) -> Tensor:
    levels = (values / scale).round().add(zero).clamp(0, 255)
    return (levels - zero) * scale


@pytest.fixture(scope="module")
def content() -> bytes:
    return float_content(plain())


@pytest.fixture(scope="module")
def whole(content: bytes) -> Int8Layout:
    return layout(content)


@pytest.fixture(scope="module")
def quantized(content: bytes, whole: Int8Layout) -> bytes:
    return write_qdq(content, whole)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.inner = nn.Conv2d(16, 16, 3, padding=1)
        self.after = nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (self.inner(x) + x).relu()
        return self.after(torch.cat((x[:, :8], x[:, 8:]), dim=1))


def test_every_layer_of_a_plain_network_runs_in_int8(content: bytes, quantized: bytes) -> None:
    assert layer_names(content) == ["0", "4", "8"]
    runs, operators = operators_as_run(quantized, layer_names(content))
    assert runs == {"0": "QLinearConv", "4": "QLinearConv", "8": "QGemm"}
    assert operators["Conv"] == operators["Relu"] == operators["Clip"] == 0


def test_a_residual_sum_runs_in_int8_and_an_output_keeps_its_name() -> None:
    content = float_content(seeded(Residual))
    quantized = write_qdq(content, layout(content))
    runs, operators = operators_as_run(quantized, layer_names(content))
    assert set(runs.values()) == {"QLinearConv"}
    assert operators["QLinearAdd"] == 1
    assert operators["Add"] == 0
    assert OnnxGraph(quantized).outputs == OnnxGraph(content).outputs


def test_a_network_of_the_catalog_has_no_float_layer_left_and_is_small() -> None:
    content = float_content(seeded(lambda: build_model("lissom:resnet8")), size=32)
    quantized = write_qdq(content, layout(content, 32))
    runs, operators = operators_as_run(quantized, layer_names(content))
    assert "float" not in runs.values()
    assert operators["QLinearConv"] == 9
    assert sum(kind == "QLinearConv" for kind in runs.values()) == 9
    onnx.checker.check_model(onnx.load_from_string(quantized))
    assert len(quantized) < 0.35 * len(content)


def test_the_batch_stays_free(quantized: bytes) -> None:
    session = OnnxSession(quantized)
    assert [session(images(batch))[0].shape for batch in (1, 5)] == [(1, 5), (5, 5)]


def test_the_file_computes_what_fake_quantization_in_torch_computes(
    content: bytes, quantized: bytes
) -> None:
    values = OnnxGraph(quantized).constants
    x = images(8, seed=9)

    def activation(name: str, values_in: Tensor) -> Tensor:
        scale, zero = values[f"{name}_scale"], values[f"{name}_zero_point"]
        return rounded(values_in, float(scale), int(zero))

    def weight(layer: str, axes: int) -> Tensor:
        scales = torch.from_numpy(values[f"{layer}.weight_scale"].copy())
        integers = torch.from_numpy(values[f"{layer}.weight_int"].copy()).float()
        return integers * scales.reshape(-1, *(1,) * axes)

    def bias(layer: str) -> Tensor:
        return torch.from_numpy(values[f"{layer}.bias_int"] * values[f"{layer}.bias_scale"])

    after = {place.name: place.output for place in find_places(OnnxGraph(content))}
    (pooled,) = (name for kind, name in pools(content) if kind == "GlobalAveragePool")
    x = activation("input", x)
    x = nn.functional.conv2d(x, weight("0", 3), bias("0").float(), padding=1).relu()
    x = nn.functional.max_pool2d(activation(after["0"], x), 2)
    x = nn.functional.conv2d(x, weight("4", 3), bias("4").float(), padding=1).clamp(0, 6)
    x = activation(pooled, activation(after["4"], x).mean(dim=(2, 3)))
    x = x @ weight("8", 1).T + bias("8").float()
    (plainly,) = OnnxSession(quantized, optimise="none")(images(8, seed=9))
    # The same arithmetic, but a float32 sum in another order may round to the neighbouring level.
    assert float((plainly - x).abs().mean()) < 2e-3 * float(x.abs().max())
    (fused,) = OnnxSession(quantized)(images(8, seed=9))
    assert float((fused - x).abs().mean()) < 5e-3 * float(x.abs().max())
    (exact,) = OnnxSession(content)(images(8, seed=9))
    assert float((exact - x).abs().mean()) > 1e-5


def test_zero_point_after_relu_types_and_scales_per_channel(quantized: bytes) -> None:
    values = OnnxGraph(quantized).constants
    assert values["0.weight_int"].dtype == np.int8
    assert values["0.weight_scale"].shape == (16,)
    assert values["0.bias_int"].dtype == np.int32
    points = {name: value for name, value in values.items() if name.endswith("_zero_point")}
    activations = {
        name: int(v) for name, v in points.items() if v.dtype == np.uint8 and v.ndim == 0
    }
    assert activations.pop("input_zero_point") > 0
    assert set(activations.values()) == {0}


def test_weights_and_biases_are_off_by_half_a_step_at_most(
    content: bytes, quantized: bytes
) -> None:
    exact, values = OnnxGraph(content), OnnxGraph(quantized).constants
    for place in find_places(exact):
        if place.kind != "layer":
            continue
        steps = values[f"{place.name}.weight_scale"].astype(np.float64)
        weight = exact.constants[place.node.input[1]]
        shaped = steps.reshape(-1, *(1,) * (weight.ndim - 1))
        gaps = values[f"{place.name}.weight_int"] * shaped - weight
        assert (np.abs(gaps) <= 0.501 * shaped).all()
        units = values[f"{place.name}.bias_scale"].astype(np.float64)
        np.testing.assert_allclose(units, steps * values[f"{place.inputs[0]}_scale"], rtol=1e-6)
        bias = exact.constants[place.node.input[2]]
        assert (np.abs(values[f"{place.name}.bias_int"] * units - bias) <= 0.501 * units).all()


def test_what_only_moves_values_keeps_their_scale(content: bytes) -> None:
    seen = observe(content, tensors_to_observe(content), [(images(16),)])
    clipped = Int8Layout(collect_ranges(seen, "percentile"), frozenset(layer_names(content)))
    values = OnnxGraph(write_qdq(content, clipped)).constants
    moves = [place for place in find_places(OnnxGraph(content)) if place.kind == "move"]
    assert [place.node.op_type for place in moves] == ["MaxPool", "Reshape"]
    for place in moves:
        assert values[f"{place.inputs[0]}_scale"] == values[f"{place.output}_scale"]


def test_a_float_layer_leaves_the_others_in_int8(content: bytes, whole: Int8Layout) -> None:
    mixed = write_qdq(content, Int8Layout(whole.ranges, frozenset({"0", "8"})))
    runs, _ = operators_as_run(mixed, layer_names(content))
    assert runs == {"0": "QLinearConv", "4": "float", "8": "QGemm"}
    nothing = write_qdq(content, Int8Layout(whole.ranges, frozenset()))
    assert "QuantizeLinear" not in {node.op_type for node in OnnxGraph(nothing).nodes}


class Loud(nn.Module):
    """Layers between layers, each with one weight that is far above the others."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.after = nn.Conv2d(8, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.first, self.inner, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        for layer in (self.grouped, self.inner):
            layer.weight.data.view(-1)[0] = 300.0

    def forward(self, x: Tensor) -> Tensor:
        x = self.after(self.grouped(self.before(x).relu()).clamp(0, 6))
        x = self.first(self.up(x.relu()).mean((2, 3)))
        return self.last(self.inner(x.relu()).clamp(0, 6))


ROUNDED = frozenset({"before", "after", "first", "last"})


def test_weights_of_a_float_layer_between_rounded_tensors_are_not_rounded() -> None:
    content = float_content(seeded(Loud))
    mixed = replace(layout(content), layers=ROUNDED)
    quantized = write_qdq(content, mixed)
    runs, operators = operators_as_run(quantized, layer_names(content))
    assert {name for name, kind in runs.items() if kind == "float"} == {"grouped", "inner"}
    assert (operators["QLinearConv"], operators["Conv"], operators["ConvTranspose"]) == (2, 1, 1)
    plainly = OnnxSession(quantized, optimise="none")
    difference = OnnxSession(quantized)(images(8))[0] - plainly(images(8))[0]
    assert float(difference.abs().mean()) < 1e-3 * float(plainly(images(8))[0].abs().max())


class Moved(nn.Module):
    """What only moves values stands between rounded layers and one in float."""

    def __init__(self, move: nn.Module, flat: nn.Module) -> None:
        super().__init__()
        self.before, self.quiet = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.after, self.last = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 8)
        self.move, self.flat, self.end = move, flat, nn.Linear(8, 4)
        for layer in (self.quiet, self.last):
            layer.weight.data.view(-1)[0] = 300.0

    def forward(self, x: Tensor) -> Tensor:
        x = self.quiet(self.move(self.before(x).relu())).clamp(0, 6)
        x = nn.functional.max_pool2d(self.after(x).relu(), x.shape[-1])
        return self.end(self.last(self.flat(x)).clamp(0, 6))


class Pixels(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, 1:, 1:].transpose(2, 3).reshape(len(x), 8, 15, 15)


@pytest.mark.parametrize("move", [nn.MaxPool2d(2), Pixels(), nn.Identity()])
def test_nor_are_they_behind_what_only_moves_values(move: nn.Module) -> None:
    content = float_content(seeded(lambda: Moved(move, nn.Flatten())))
    mixed = replace(layout(content), layers=frozenset({"before", "after", "end"}))
    quantized = write_qdq(content, mixed)
    runs, operators = operators_as_run(quantized, layer_names(content))
    assert {name for name, kind in runs.items() if kind == "float"} == {"quiet", "last"}
    assert operators["QLinearConv"] == 2
    plainly = OnnxSession(quantized, optimise="none")(images(8))[0]
    difference = OnnxSession(quantized)(images(8))[0] - plainly
    assert float(difference.abs().mean()) < 1e-3 * float(plainly.abs().max())


def test_what_a_runtime_rounds_of_its_own_is_not_called_float() -> None:
    content = float_content(seeded(Loud))
    mixed = replace(layout(content), layers=ROUNDED)
    graph = OnnxGraph(write_qdq(content, mixed))
    for node in graph.nodes:  # as if each tensor had one scale for all readers
        name = node.input[0].rpartition("_by_channel")[0]
        if node.op_type == "Conv" and name:
            node.input[0] = f"{name.removeprefix(f'{node.output[0]}_')}_restored"
    runs, _ = operators_as_run(graph.content(), layer_names(content))
    assert runs["grouped"] == "QLinearConv"


def test_reduced_range_takes_seven_bits(content: bytes, whole: Int8Layout) -> None:
    narrow = OnnxGraph(write_qdq(content, replace(whole, reduce_range=True))).constants
    assert np.abs(narrow["4.weight_int"]).max() == 63


def test_weights_on_a_grid_stay_on_it() -> None:
    rng = np.random.default_rng(0)
    levels = rng.integers(-3, 4, (8, 4, 3, 3))
    scales = rng.uniform(0.01, 2, (8, 1, 1, 1))
    weight = (levels * scales).astype(np.float32)
    steps = weight_steps(weight)
    np.testing.assert_allclose(
        np.rint(weight / steps.reshape(-1, 1, 1, 1)) * steps.reshape(-1, 1, 1, 1), weight, rtol=1e-5
    )
    assert (np.rint(weight / steps.reshape(-1, 1, 1, 1)) == levels).all()
    off = rng.standard_normal((8, 40)).astype(np.float32)
    np.testing.assert_allclose(weight_steps(off), np.abs(off).max(axis=1) / 127, rtol=1e-6)
    assert weight_steps(np.zeros((2, 3), np.float32)).tolist() == [1, 1]


@given(
    st.integers(1, 127),
    st.lists(st.floats(1e-6, 1e3), min_size=4, max_size=4),
    st.integers(0, 2**32 - 1),
)
def test_levels_are_known_from_other_weights(largest, scales, seed):
    rng = np.random.default_rng(seed)
    levels = rng.integers(-largest, largest + 1, (4, 3, 3))
    weight = (levels * np.array(scales).reshape(-1, 1, 1)).astype(np.float32)
    assert on_levels(weight)
    weight[rng.integers(4)] += (
        rng.uniform(0.2, 0.4, (3, 3)).astype(np.float32) * np.abs(weight).max()
    )
    assert not on_levels(weight, 3)


def test_a_bias_too_large_for_int32_widens_the_step(content: bytes, whole: Int8Layout) -> None:
    graph = OnnxGraph(content)
    node = next(node for node in graph.nodes if "4.weight" in node.input)
    weight, bias = graph.constants["4.weight"].copy(), graph.constants[node.input[2]].copy()
    weight[0], bias[0] = 1e-12, 5.0
    graph.constants.update({"4.weight": weight, node.input[2]: bias})
    values = OnnxGraph(write_qdq(graph.content(), whole)).constants
    assert abs(values["4.bias_int"][0] * values["4.bias_scale"][0] - 5.0) < 1e-3


def test_a_missing_range_is_named(content: bytes) -> None:
    with pytest.raises(KeyError, match="input"):
        write_qdq(content, Int8Layout({}, frozenset({"0"})))
