from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from int8_samples import float_content, images, plain, seeded
from torch import Tensor, nn

from lissom.errors import ExportError
from lissom.export.graph import OnnxGraph
from lissom.export.int8_observe import observe
from lissom.export.int8_operators import with_integer_kernels
from lissom.export.onnx import onnx_content
from lissom.export.qdq import (
    Int8Layout,
    layer_names,
    tensors_needed,
    tensors_to_observe,
    weight_constant,
    write_qdq,
)
from lissom.export.rounded_network import RoundedNetwork
from lissom.export.runtime import OnnxSession
from lissom.models.catalog import build_model
from lissom.quantization.activation_ranges import collect_ranges


class Split(nn.Module):
    """Halves of a tensor, a constant that is no parameter, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(8, 5)
        self.weights = torch.tensor([0.5, 2.0]).view(2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        one, two = F.relu(self.a(x)).chunk(2, dim=1)
        x = torch.cat([one, self.b(two)], dim=1).mean((2, 3))
        return self.head(x), x[:, :2] @ self.weights


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": plain,
    "split": lambda: seeded(Split),
    "residual": lambda: seeded(lambda: build_model("lissom:digits_resnet")),
}


def sample(name: str) -> tuple[nn.Module, Tensor, bytes, Int8Layout]:
    model = NETWORKS[name]()
    channels = 1 if name == "residual" else 3
    x = images(8, 8, channels)
    content = float_content(model, 8, channels)
    ranges = collect_ranges(observe(content, tensors_to_observe(content), [(x,)]))
    return model, x, content, Int8Layout(ranges, frozenset(layer_names(content)))


def outputs(found: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return found if isinstance(found, tuple) else (found,)


@pytest.mark.parametrize("name", NETWORKS)
def test_without_rounding_it_is_the_network_to_the_bit(name: str) -> None:
    model, x, content, layout = sample(name)
    same = RoundedNetwork(model, (x[:1],), content, replace(layout, layers=frozenset()))
    assert not same.ranges
    assert not same.levels
    with torch.no_grad():
        for ours, theirs in zip(outputs(same(x)), outputs(model(x)), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", NETWORKS)
def test_rounded_it_is_what_the_file_says(name: str) -> None:
    model, x, content, layout = sample(name)
    network = RoundedNetwork(model, (x[:1],), content, layout)
    state = dict(model.state_dict())
    for layer, (levels, steps) in network.hardened().items():
        state[f"{layer}.weight"] = levels * steps.view(-1, *[1] * (levels.ndim - 1))
    with torch.no_grad():
        found, plain_ones = outputs(network(x)), outputs(model(x))
    model.load_state_dict(state)
    channels = x.shape[1]
    file = OnnxSession(write_qdq(float_content(model, 8, channels), layout), optimise="none")(x)
    for ours, theirs, float_one in zip(found, file, plain_ones, strict=True):
        apart, lost = (ours - theirs).abs().mean(), (theirs - float_one).abs().mean()
        assert lost > 0
        # What is on a border may fall to either side, and depth multiplies that.
        assert apart < (0.9 if name == "residual" else 0.25) * lost
    modules = {name for name, _ in model.named_modules()}
    assert network.hardened().keys() == layout.layers & modules
    assert network.learned.keys() == tensors_needed(content, layout.layers)


def test_it_runs_channels_last_and_with_any_names() -> None:
    class Awkward(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.values, self.keys = nn.Conv2d(3, 4, 3), nn.Linear(4 * 6 * 6, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.flatten(F.relu(self.values(x)), 1)
            return self.keys(x) + torch.arange(5, device=x.device)

    model, x = seeded(Awkward), images(8, 8)
    content = float_content(model, 8)
    ranges = collect_ranges(observe(content, tensors_to_observe(content), [(x,)]))
    layout = Int8Layout(ranges, frozenset(layer_names(content)))
    network = RoundedNetwork(model, (x[:1],), content, layout)
    found = network(x.contiguous(memory_format=torch.channels_last))
    assert torch.allclose(found, network(x), atol=1e-3)
    assert network.hardened().keys() == {"values", "keys"}


def test_everything_learns_and_the_network_is_trained_in_place() -> None:
    model, x, content, layout = sample("residual")
    network = RoundedNetwork(model, (x[:1],), content, layout)
    network.train()
    statistics = {name: value.clone() for name, value in model.named_buffers()}
    network(x).square().sum().backward()
    assert all(one.grad is not None for one in model.parameters())
    assert all(one.shift.grad is not None for one in network.learned_ranges())
    assert all(torch.equal(value, statistics[name]) for name, value in model.named_buffers())
    with torch.no_grad():
        before = network(x)
        model.get_parameter("linear.bias").add_(1)
        assert not torch.equal(network(x), before)


def test_levels_of_few_bits_are_found_again_in_the_file() -> None:
    model, x, content, layout = sample("plain")
    network = RoundedNetwork(model, (x[:1],), content, replace(layout, bits=3))
    (levels, steps) = network.hardened()["0"]
    model.get_parameter("0.weight").data = levels * steps.view(-1, 1, 1, 1)
    rounded = OnnxGraph(write_qdq(float_content(model, 8), layout)).constants
    found = torch.from_numpy(rounded[weight_constant("0")].copy()).int()
    assert int(found.abs().max()) <= 3
    assert torch.equal(found, levels)


def test_a_network_for_one_batch_size_is_refused() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) if x.shape[0] == 2 else self.conv(x) + 1

    model = Fixed().eval()
    content = with_integer_kernels(onnx_content(model, (images(1, 8),))[0])
    with pytest.raises(ExportError, match="can't be exported with a free batch"):
        RoundedNetwork(model, (images(1, 8),), content, Int8Layout({}, frozenset()))
