import os
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lissom.errors import ModelError
from lissom.models.catalog import LISSOM_MODELS, build_model, preprocessing
from lissom.models.outside import build_from_factory
from lissom.models.weights import load_weights


def convolution_macs(model, shape):
    """Count the MACs of the convolutions and, apart from them, of the linear layers."""
    counts = {nn.Conv2d: 0, nn.Linear: 0}

    def count(module, inputs, output):
        positions = output[0, 0].numel() if isinstance(module, nn.Conv2d) else 1
        counts[type(module)] += module.weight.numel() * positions

    for module in model.modules():
        if type(module) in counts:
            module.register_forward_hook(count)
    with torch.no_grad():
        model.eval()(torch.zeros(1, *shape))
    return counts[nn.Conv2d], counts[nn.Linear]


# The published tables count convolutions only; the classifier comes on top.
@pytest.mark.parametrize(
    ("name", "params", "macs", "classifier"),
    [
        ("resnet20", 269_722, 40_550_400, 640),
        ("resnet32", 464_154, 68_861_952, 640),
        ("resnet44", 658_586, 97_173_504, 640),
        ("resnet56", 853_018, 125_485_056, 640),
        ("resnet110", 1_727_962, 252_887_040, 640),
        ("resnet8", 78_186, 12_500_992, 640),
        ("resnet18", 11_173_962, 555_417_600, 5_120),
        ("vgg16_bn", 14_724_042, 313_196_544, 5_120),
        ("mobilenet_v2", 2_296_922, 91_142_144, 12_800),
    ],
)
def test_costs_what_the_papers_say(name, params, macs, classifier):
    model = build_model(f"lissom:{name}")
    assert sum(p.numel() for p in model.parameters()) == params
    assert convolution_macs(model, (3, 32, 32)) == (macs, classifier)


def test_the_digits_network_is_small():
    model = build_model("lissom:digits_resnet")
    assert sum(p.numel() for p in model.parameters()) == 73_762
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_counting_macs_notices_a_missing_layer():
    model = build_model("lissom:resnet20")
    model.layer3[2] = nn.Identity()
    assert convolution_macs(model, (3, 32, 32))[0] < 40_550_400


def test_keys_are_the_checkpoints_own():
    keys = set(build_model("lissom:resnet20").state_dict())
    assert {"conv1.weight", "bn1.running_mean", "layer3.2.conv2.weight", "linear.bias"} <= keys
    assert not any("shortcut" in key for key in keys)
    keys = set(build_model("lissom:resnet8").state_dict())
    assert {"conv1.bias", "layer2.shortcut.bias", "layer1.bn2.weight"} <= keys
    assert "layer1.shortcut.weight" not in keys


def test_resnet8_pads_right_and_bottom():
    block = build_model("lissom:resnet8").layer2
    seen = []
    block.conv1.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    block(torch.ones(1, 16, 8, 8))
    assert seen[0].shape == (1, 16, 9, 9)
    assert seen[0][:, :, 8].count_nonzero() == seen[0][:, :, :, 8].count_nonzero() == 0
    assert bool(seen[0][:, :, :8, :8].all())


def test_passes_arguments_on():
    assert build_model("lissom:resnet20", classes=7)(torch.zeros(1, 3, 32, 32)).shape == (1, 7)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lissom:resnet21", "did you mean lissom:resnet"),
        ("resnet20", "write lissom:NAME.*did you mean lissom:resnet20"),
        ("keras:resnet20", "write lissom:NAME"),
        ("torchvision:resnet51", "did you mean resnet"),
        ("timm:resnet51", "did you mean resnet"),
    ],
)
def test_unknown_names_get_the_nearest(spec, message):
    with pytest.raises(ModelError, match=message):
        build_model(spec)


def test_wrong_arguments():
    with pytest.raises(ModelError, match=r"lissom:resnet20.*'width'"):
        build_model("lissom:resnet20", width=3)


@pytest.mark.parametrize(
    "spec", ["torchvision:squeezenet1_1", "timm:mobilenetv3_small_050"], ids=str
)
def test_builds_other_libraries_networks(spec):
    assert isinstance(build_model(spec), nn.Module)


def test_says_how_to_install_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)

    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(ModelError, match="pip install torchvision"):
        build_model("timm:resnet18")


def test_factory():
    assert isinstance(
        build_from_factory("torch.nn:Linear", in_features=1, out_features=2), nn.Linear
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("torch.nn", "write package.module:factory"),
        ("no_such_package:net", "on PYTHONPATH"),
        ("torch.nn:NoSuch", "NoSuch"),
        ("math:pi", "expected a callable"),
        ("builtins:dict", "returned a dict"),
    ],
)
def test_factory_errors(spec, message):
    with pytest.raises(ModelError, match=message):
        build_from_factory(spec)


def test_preprocessing():
    assert preprocessing("lissom:resnet8").scale == 1.0
    assert preprocessing("lissom:resnet56").mean == (0.485, 0.456, 0.406)
    assert preprocessing("timm:resnet18") is None
    assert preprocessing("lissom:digits_resnet") is None


def test_every_network_computes_finite_numbers_before_training():
    for name in LISSOM_MODELS:
        if name in ("resnet44", "resnet110", "resnet18", "vgg16_bn"):
            continue  # like a smaller one here, only slower
        channels, side = (1, 8) if name == "digits_resnet" else (3, 32)
        model = build_model(f"lissom:{name}")
        assert torch.isfinite(model(torch.randn(2, channels, side, side))).all(), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "file", "accuracy"),
    [
        ("lissom:resnet20", "cifar10_resnet20", 0.9173),
        ("lissom:resnet56", "cifar10_resnet56", 0.9339),
        ("lissom:resnet8", "cifar10_resnet8_mlperf", 0.8719),
    ],
)
def test_reproduces_published_accuracies(spec, file, accuracy):
    from lissom.data.load import load_data
    from lissom.data.options import DataOptions
    from lissom.task import Classification
    from lissom.train.evaluate import evaluate

    images, checkpoints = os.environ.get("LISSOM_CIFAR10"), os.environ.get("LISSOM_CHECKPOINTS")
    if not images or not checkpoints:
        pytest.skip("set LISSOM_CIFAR10 and LISSOM_CHECKPOINTS to the data and checkpoint folders")
    model = build_model(spec)
    load_weights(model, Path(checkpoints) / f"{file}.safetensors")
    wanted = preprocessing(spec)
    options = DataOptions(mean=wanted.mean, std=wanted.std, scale=wanted.scale)
    test = load_data("cifar10", images, options).data.test
    # One image is 0.0001; another machine may round one or two of 10,000 differently.
    assert evaluate(model, test, Classification()) == pytest.approx(accuracy, abs=3e-4)
