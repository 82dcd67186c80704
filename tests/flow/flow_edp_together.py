"""Run by torchrun, or imported: EDP on a small network; every process notes what it came to."""

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
from lissom.methods.edp import Edp, EdpSettings
from lissom.pipeline.settings import Settings
from lissom.task import Classification
from lissom.train.evaluate import evaluate
from lissom.train.loop import train
from lissom.train.settings import TrainSettings

TASK = Classification()
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


def compressed(model: nn.Module, devices: int) -> dict[str, Any]:
    """Halve the MACs of a network by EDP, and say what came out."""
    loaded = load_data("digits")
    recover = TrainSettings(
        epochs=8, learning_rate=0.02, warmup_steps=10, ema=0.95, device="cpu", precision="32",
        devices=devices, strategy="ddp" if devices > 1 else "auto",
    )  # fmt: skip
    result = lissom.compress(
        model, loaded.example_inputs, data=loaded.data, method=Edp(EdpSettings()),
        budget="macs=0.5", settings=Settings(recover=recover, cache=None),
    )  # fmt: skip
    unseen = [*loaded.data.held_out, *loaded.data.test]
    return {
        "plan": hashlib.sha256(result.plan.to_json().encode()).hexdigest(),
        "weights": hashlib.sha256(weights_content(result.model)).hexdigest(),
        "macs": result.report.compressed.macs,
        "accuracy": evaluate(result.model, unseen, TASK, device="cpu"),
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    given = network()
    given.load_state_dict(torch.load(folder / "original.pt"))
    torch.save(compressed(given, 2), folder / f"{os.environ['RANK']}.pt")
