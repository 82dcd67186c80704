from collections import namedtuple

import pytest
import torch
from torch import nn

from lissom.errors import RecipeError
from lissom.train import machine
from lissom.train.machine import (
    Machine,
    autocast,
    choose_channels_last,
    choose_device,
    choose_machine,
    choose_precision,
    lent,
    moved,
)
from lissom.train.settings import TrainSettings

CPU = torch.device("cpu")


def test_devices():
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in ("cpu", "cuda")
    for missing in ("cuda:99", "nonsense"):
        with pytest.raises(RecipeError, match=f"device='{missing}': not available here"):
            choose_device(missing)


@pytest.mark.parametrize(
    ("amx", "avx512_bf16", "vendor", "expected"),
    [
        (True, True, "GenuineIntel", "bf16"),
        (False, True, "GenuineIntel", "32"),
        (False, True, "AuthenticAMD", "bf16"),
        (False, False, "AuthenticAMD", "32"),
    ],
)
def test_bf16_only_where_it_is_faster(monkeypatch, amx, avx512_bf16, vendor, expected):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(machine, "_made_by", lambda name: name == vendor)
    assert choose_precision("auto", CPU) == expected
    assert choose_precision("bf16", CPU) == "bf16"


def test_channels_last():
    assert choose_channels_last("auto", CPU, "32") == "yes"
    assert choose_channels_last("no", CPU, "32") == "no"
    assert choose_channels_last("auto", torch.device("cuda"), "32") == "no"


def test_settings_decide():
    chosen = choose_machine(TrainSettings(device="cpu", precision="bf16", channels_last="no"))
    assert chosen == Machine(CPU, "bf16", "no")
    assert chosen.memory_format == torch.contiguous_format


def test_takes_convolutions_and_images_in_channels_last():
    here = Machine(CPU, "32", "yes")
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Linear(8, 2))
    weight = model[0].weight
    here.take(model)
    assert model[0].weight is weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert here.images(torch.zeros(2, 3, 4, 4)).is_contiguous(memory_format=torch.channels_last)
    assert here.images(torch.zeros(2, 3)).shape == (2, 3)


def test_autocast():
    layer, x = nn.Linear(2, 2), torch.zeros(1, 2)
    with autocast("bf16", CPU):
        assert layer(x).dtype == torch.bfloat16
    with autocast("32", CPU):
        assert layer(x).dtype == torch.float32


def test_lent_restores_every_mode():
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout())
    model[0].eval()
    with lent(model, CPU):
        model.eval()
    assert [module.training for module in model.modules()] == [True, False, True]


def test_moved_reaches_into_everything():
    Pair = namedtuple("Pair", "x y")
    batch = Pair([torch.zeros(1), {"a": torch.zeros(1)}], ("text", 3))
    result = moved(batch, torch.device("meta"))
    assert isinstance(result, Pair)
    assert result.x[0].is_meta
    assert result.x[1]["a"].is_meta
    assert result.y == ("text", 3)
