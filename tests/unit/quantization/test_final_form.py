from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissom.errors import PlanError, UnsupportedLayer
from lissom.graph.folding import foldable
from lissom.models.resnet_cifar import digits_resnet
from lissom.packed.recognise import packable
from lissom.packed.tensors import Levels
from lissom.plan.build import apply_values, build
from lissom.plan.fold import FoldBatchNorm
from lissom.plan.plan import Plan
from lissom.plan.quantize import Quantize
from lissom.quantization.final_form import FinalForm, VectorSettings, final_form
from lissom.quantization.levelled import Levelled
from lissom.quantization.levels import levels_of

FINE = VectorSettings(scale_bits=10, step_bits=10, bias_places=16)


def lively(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 0.3, 1)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.3, 3)
    return model.eval()


def quantize(model: nn.Module) -> dict[str, Levelled]:
    """Round every weight of a network to few levels, in place."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            weight = module.weight.detach()
            step = weight.std()
            levels = levels_of(weight, step, 0.65 * step, torch.tensor(3.0)).to(torch.int32)
            found[name] = Levelled(levels, step)
            module.weight.data.copy_(found[name].weight)
    return found


def rebuilt(model: nn.Module, form: FinalForm) -> nn.Module:
    new = build(model, Plan(form.plan))
    apply_values(new, form.values)
    return new.eval()


@torch.no_grad()
def difference(left: nn.Module, right: nn.Module, x: Tensor) -> float:
    return float((left(x) - right(x)).norm() / left(x).norm())


def block(**options: object) -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(3, 6, 3, **options), nn.BatchNorm2d(6), nn.ReLU())
    return lively(model)


def test_the_new_network_computes_what_the_trained_one_did() -> None:
    model = lively(digits_resnet())
    before = copy.deepcopy(model.state_dict())
    levels = quantize(model)
    trained = copy.deepcopy(model.state_dict())
    folds = foldable(model, (torch.zeros(1, 1, 8, 8),))
    x = torch.randn(16, 1, 8, 8)
    errors = {}
    for bits in (3, 5, 10):
        form = final_form(model, levels, folds, VectorSettings(bits, 8, bits))
        errors[bits] = difference(model, rebuilt(model, form), x)
    # Half a unit of the last place per channel and layer: 2^-4, 2^-6 and 2^-11, not added up.
    assert errors[10] < 2e-3
    assert errors[5] < 0.05
    assert errors[10] < errors[5] < errors[3] < 0.25
    assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())
    assert before.keys() == trained.keys()


def test_decisions_and_values_fit_the_new_network() -> None:
    model = lively(digits_resnet())
    levels = quantize(model)
    form = final_form(model, levels, foldable(model, (torch.zeros(1, 1, 8, 8),)))
    kinds = [type(decision) for decision in form.plan]
    assert kinds == [FoldBatchNorm] * 9 + [Quantize] * 10
    assert form.plan[9] == Quantize(
        "conv1", levels["conv1"].bits, levels["conv1"].nonzero, channel_scales=True
    )
    assert form.plan[-1].channel_scales is False
    assert not any("bn" in name for name in form.values)
    assert Plan.from_json(Plan(form.plan).to_json()).decisions == form.plan


def test_a_packed_file_finds_levels_and_positive_short_scales() -> None:
    model = block()
    levels = quantize(model)["0"]
    values = final_form(model, {"0": levels}, {"0": "1"}).values
    found = packable(values["0.weight"])
    assert isinstance(found, Levels)
    signs = model[1].weight.sign().to(torch.int32).reshape(-1, 1, 1, 1)
    assert (signs < 0).any()
    assert torch.equal(found.levels, levels.levels * signs)
    assert (found.scale > 0).all()
    assert (found.scale.view(torch.int32) % (1 << 18) == 0).all()
    gain = model[1].weight.abs() / (model[1].running_var + model[1].eps).sqrt()
    torch.testing.assert_close(found.scale, levels.step * gain, rtol=2**-6, atol=0)


def test_means_of_channels_stay_whatever_becomes_of_the_scale() -> None:
    model = block(bias=True)[:2]
    levels = quantize(model)
    x = torch.randn(64, 3, 8, 8)
    with torch.no_grad():
        model[1].running_mean.copy_(model[0](x).mean((0, 2, 3)))
    form = final_form(model, levels, {"0": "1"}, VectorSettings(scale_bits=0, bias_places=16))
    new = rebuilt(model, form)
    with torch.no_grad():
        torch.testing.assert_close(new(x).mean((0, 2, 3)), model[1].bias, atol=1e-4, rtol=0)
        new[0].bias += 0.01
        with pytest.raises(AssertionError):
            torch.testing.assert_close(new(x).mean((0, 2, 3)), model[1].bias, atol=1e-4, rtol=0)


def test_channels_that_say_nothing_cost_nothing() -> None:
    model = block()
    levels = quantize(model)["0"]
    levels.levels[2] = 0
    model[0].weight.data[2] = 0
    model[1].weight.data[0] = model[1].weight.data[1] = 0
    form = final_form(model, {"0": levels}, {"0": "1"}, FINE)
    found = packable(form.values["0.weight"])
    assert isinstance(found, Levels)
    assert (found.levels[:3] == 0).all()
    assert (found.scale[:3] == found.scale[3]).all()
    assert form.plan[1].nonzero == int(found.levels.count_nonzero())
    assert difference(model, rebuilt(model, form), torch.randn(4, 3, 8, 8)) < 1e-3


def test_a_layer_of_silence_keeps_its_constant() -> None:
    model = block()
    model[1].weight.data.zero_()
    form = final_form(model, quantize(model), {"0": "1"}, FINE)
    assert not form.values["0.weight"].any()
    assert difference(model, rebuilt(model, form), torch.randn(4, 3, 8, 8)) < 1e-3


def test_layers_without_a_norm_keep_one_scale_and_a_short_bias() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 3, bias=False))
    levels = quantize(model)
    form = final_form(model, levels, {})
    assert form.plan == tuple(
        Quantize(name, one.bits, one.nonzero, channel_scales=False) for name, one in levels.items()
    )
    found = packable(form.values["0.weight"])
    assert isinstance(found, Levels)
    assert found.scale.ndim == 0
    unit = 2.0 ** math.floor(math.log2(float(model[0].bias.detach().abs().max()))) / 256
    assert not (form.values["0.bias"] / unit).frac().any()
    torch.testing.assert_close(form.values["0.bias"], model[0].bias.data, rtol=0, atol=unit / 2)
    # Step and bias: 2^-9 each.
    assert difference(model, rebuilt(model, form), torch.randn(9, 20)) < 2**-8


def test_layers_without_levels_are_folded_too() -> None:
    model = block()
    form = final_form(model, {}, {"0": "1"})
    assert form.plan == (FoldBatchNorm("0", "1"),)
    assert difference(model, rebuilt(model, form), torch.randn(4, 3, 8, 8)) < 1e-6


def test_norms_that_stay_become_float16_and_no_variance_zero() -> None:
    model = block()
    model[1].running_var.data[0] = 1e-12
    model[1].running_mean.data[0] = 0.5  # what float16 moved would be amplified
    values = final_form(model, quantize(model), {}).values
    for leaf in ("weight", "bias", "running_mean", "running_var"):
        value = values[f"1.{leaf}"]
        assert torch.equal(value.half().float(), value)
    assert values["1.running_var"][0] == 2.0**-24
    assert values["1.num_batches_tracked"] == 0


def test_what_float16_can_not_hold_stays_as_it_is() -> None:
    model = block()
    model[1].running_var.data[0] = 1e6
    values = final_form(model, quantize(model), {}).values
    assert torch.equal(values["1.running_var"], model[1].running_var)
    assert torch.equal(values["1.bias"], values["1.bias"].half().float())


def test_a_step_below_float16_stays_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    levels = torch.arange(12, dtype=torch.int32).reshape(3, 4)
    form = final_form(model, {"0": Levelled(levels, torch.tensor(1e-9))}, {})
    assert torch.allclose(form.values["0.weight"], 1e-9 * levels.float())


def test_tied_tensors_are_there_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    assert list(final_form(model, {}, {}).values) == ["0.weight"]


class Tuple(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.large, self.unused = nn.Parameter(torch.rand(4) * 1e6), nn.Parameter(torch.rand(4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(x), self.large + 0 * x


def test_levels_of_a_layer_with_two_names_stay_levels() -> None:
    torch.manual_seed(0)
    twice = nn.Conv2d(8, 8, 3, padding=1, bias=False)
    network = nn.Sequential(twice, nn.ReLU(), twice, nn.Flatten(), nn.Linear(8 * 36, 4)).eval()
    levels = torch.randint(-15, 16, twice.weight.shape).int()
    found = {"0": Levelled(levels, torch.tensor(0.0137))}
    values = final_form(network, found, {}, inputs=(torch.randn(4, 8, 6, 6),)).values
    assert isinstance(packable(values["0.weight"]), Levels)


def test_raw_images_keep_the_means_of_a_norm_that_stays() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3)
    norm.running_mean = torch.tensor([4001.3, 2500.7, 0.3])
    network = nn.Sequential(norm, nn.Conv2d(3, 8, 3)).eval()
    values = final_form(network, {}, {}).values
    assert torch.equal(values["0.running_mean"], norm.running_mean)
    near = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3)).eval()
    near[0].running_mean = torch.tensor([1.3, -0.7, 0.3])
    short = final_form(near, {}, {}).values["0.running_mean"]
    assert torch.equal(short, short.half().float())


@pytest.mark.parametrize("scale", [1.0, 1e4, 1e6])
def test_large_inputs_do_not_silence_a_folded_layer(scale: float) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    images = torch.randn(32, 3, 8, 8) * scale
    network.train()
    for _ in range(60):
        network(images)
    weight = network.eval()[0].weight.detach()
    step = weight.abs().max() / 127
    found = {"0": Levelled((weight / step).round().int(), step)}
    form = final_form(network, found, {"0": "1"}, inputs=(images,))
    new = build(network, Plan(form.plan))
    apply_values(new, form.values)
    with torch.no_grad():
        expected, got = network(images), new.eval()(images)
    assert float((got - expected).abs().max()) < 0.06 * float(expected.abs().max())


def test_dead_channels_leave_the_scales_of_the_others_short() -> None:
    model = block()
    model[1].weight.data[0] = 1e-9
    found = quantize(model)
    folded = final_form(model, found, {"0": "1"}).values["0.weight"]
    scales = (
        folded[1:].abs().flatten(1).max(1).values
        / found["0"].levels[1:].abs().flatten(1).max(1).values
    )
    assert torch.equal(scales, scales.half().float())


def test_the_rest_becomes_float16_where_the_outputs_bear_it() -> None:
    torch.manual_seed(0)
    model = Tuple().train()
    inputs = (torch.randn(5, 4),)

    def halved(**options: object) -> set[str]:
        values = final_form(model, {}, {}, **options).values
        return {name for name, value in values.items() if torch.equal(value.half().float(), value)}

    assert halved() == set()
    assert halved(inputs=inputs) == {"linear.weight", "linear.bias", "unused"}
    assert halved(inputs=inputs, settings=VectorSettings(tolerance=0)) == {"unused"}
    assert model.training


def test_a_trained_toy_keeps_its_accuracy() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))
    labels = torch.arange(128) % 2
    x = torch.randn(128, 3, 8, 8) + labels.reshape(-1, 1, 1, 1) - 0.5
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    model.train()
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()
    levels = quantize(model.eval())
    form = final_form(model, levels, foldable(model, (x,)))
    scores = [net(x).argmax(1) for net in (model, rebuilt(model, form))]
    assert (scores[0] == labels).float().mean() > 0.9
    assert torch.equal(*scores)


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        ("1", ValueError, r"1: levels of shape \(2, 2\) for a weight of shape \(6,\)"),
        ("2", UnsupportedLayer, r"2: levels are for a layer with a weight of its own, got ReLU"),
        ("9", PlanError, r"layer '9' does not exist"),
    ],
)
def test_levels_for_no_such_weight_are_refused(
    layer: str, error: type[Exception], message: str
) -> None:
    levels = Levelled(torch.ones(2, 2, dtype=torch.int32), torch.tensor(0.5))
    with pytest.raises(error, match=message):
        final_form(block(), {layer: levels}, {})


def test_transposed_convolutions_take_no_norm_in() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(3, 6, 3), nn.BatchNorm2d(6))
    levels = Levelled(torch.ones(3, 6, 3, 3, dtype=torch.int32), torch.tensor(0.5))
    with pytest.raises(UnsupportedLayer, match=r"0: the scales of a quantized transposed"):
        final_form(model, {"0": levels}, {"0": "1"})
    assert final_form(model, {"0": levels}, {}).plan[0].channel_scales is False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale_bits": 11}, "scale_bits=11"),
        ({"step_bits": -1}, "step_bits=-1"),
        ({"bias_places": 21}, "bias_places=21"),
        ({"tolerance": math.nan}, "tolerance=nan"),
    ],
)
def test_settings_are_checked(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VectorSettings(**options)
