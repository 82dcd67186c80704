"""Run by torchrun, or imported: a method that trains; every process notes what it came to."""

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

import lissom
from lissom.artifacts import weights_content
from lissom.data.load import load_data
from lissom.extension import Method
from lissom.methods.ajc import Ajc
from lissom.methods.ajc_settings import AjcSettings
from lissom.methods.edp import Edp, EdpSettings
from lissom.methods.int8 import Int8
from lissom.methods.int8_options import Int8Options
from lissom.pipeline.settings import Settings
from lissom.task import Classification
from lissom.train.evaluate import evaluate
from lissom.train.loop import train
from lissom.train.settings import TrainSettings

TASK = Classification()
# Per method its budget and peak learning rate.
ASKED = {"edp": ("macs=0.5", 0.02), "ajc": ("size=16x", 0.01), "int8": ("max_drop=5", 0.02)}
START = TrainSettings(
    epochs=8, learning_rate=0.1, warmup_steps=10, ema=0.95, device="cpu", precision="32"
)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 24, 3, stride=2), nn.BatchNorm2d(24), nn.ReLU(),
        nn.Conv2d(24, 24, 3), nn.BatchNorm2d(24), nn.ReLU(), nn.Flatten(), nn.Linear(24, 10),
    )  # fmt: skip


def original() -> nn.Module:
    """Give a trained network."""
    model = network()
    train(model, load_data("digits").data, TASK, START)
    return model


def method_of(name: str) -> Method:
    """Give a method with settings for a short training."""
    if name == "edp":
        ramp = {"split": "channel", "ramp_end": 0.3, "cut_at": 0.3, "steer_every": 5}
        return Edp(EdpSettings(rate_factor=1, **ramp))
    if name == "int8":
        return Int8(Int8Options(calibration_images=128, estimator="mse"))
    return Ajc(AjcSettings(statistics_images=128, weighings=3, steer_every=5, rate_factor=1))


def compressed(model: nn.Module, name: str, devices: int) -> dict[str, Any]:
    """Compress a network by a method, and say what came out."""
    loaded = load_data("digits")
    budget, rate = ASKED[name]
    recover = TrainSettings(
        epochs=8, learning_rate=rate, warmup_steps=10, ema=0.95, device="cpu", precision="32",
        devices=devices, strategy="ddp" if devices > 1 else "auto",
    )  # fmt: skip
    result = lissom.compress(
        model, loaded.example_inputs, data=loaded.data, method=method_of(name),
        budget=budget, settings=Settings(recover=recover, cache=None, allow_slower=True),
    )  # fmt: skip
    unseen = [*loaded.data.held_out, *loaded.data.test]
    return {
        "plan": hashlib.sha256(result.plan.to_json().encode()).hexdigest(),
        "weights": hashlib.sha256(weights_content(result.model)).hexdigest(),
        "macs": result.report.compressed.macs,
        "bytes": result.report.compressed.size_bytes,
        "accuracy": evaluate(result.model, unseen, TASK, device="cpu"),
    }


if __name__ == "__main__":
    method, folder = sys.argv[1], Path(sys.argv[2])
    given = network()
    given.load_state_dict(torch.load(folder / "original.pt"))
    torch.save(compressed(given, method, 2), folder / f"{os.environ['RANK']}.pt")
