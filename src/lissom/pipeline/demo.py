"""The main job on data that ships with the package: train, compress, recover, report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from lissom.artifacts import weights_content
from lissom.data.load import load_data
from lissom.export.files import write_files
from lissom.extension import limits_of
from lissom.methods.catalog import method_called
from lissom.models.catalog import build_model
from lissom.pipeline.recipe_run import check_out, run_recipe
from lissom.pipeline.result import Result
from lissom.recipe.recipe import Recipe
from lissom.task import Classification
from lissom.train.loop import train
from lissom.train.settings import TrainSettings

_LIMITS: dict[str, str | float] = {"macs": 0.5, "size": "8x", "max_drop": 1.0}
# The demo's rate is high already.
_GENTLE: dict[str, dict[str, float]] = {"edp": {"rate_factor": 1}, "int8": {"rate_factor": 0.01}}
NETWORK = "lissom:digits_resnet"
_TRAIN = TrainSettings(epochs=20, learning_rate=0.1, distillation=0.0, warmup_steps=50)


def run_demo(method: str, out: Path, *, say: Callable[[str], None] = print) -> Result:
    """Train a small residual network on digits, and compress it.

    Half of its MACs may remain; where the method is not held to those, an eighth of its bytes, or
    one point may be lost.

    Args:
        method: ``hmc``, ``nahc``, ``ahc``, ``edp``, ``ajc`` or ``int8``.
        out: A new or empty folder; the trained original goes beside it.
        say: Takes a line of text at a time, for the user.

    Raises:
        RecipeError: ``out`` is not empty, or there is no such method.
    """
    check_out(out, resume=False)
    held = limits_of(method_called(method))
    budget = next({name: limit} for name, limit in _LIMITS.items() if name in held)
    say("training a small residual network on scikit-learn's digits")
    torch.manual_seed(0)
    model = build_model(NETWORK)
    train(model, load_data("digits").data, Classification(), _TRAIN)
    weights = out.with_name(f"{out.name}.original.safetensors")
    write_files({weights: weights_content(model)})
    recipe = Recipe.model_validate(
        {
            "model": {"name": NETWORK, "weights": str(weights)},
            "data": "digits",
            "stages": [{"method": method, **_GENTLE.get(method, {})}],
            "budget": budget,
            "recover": {"epochs": 15, "learning_rate": 0.05, "warmup_steps": 20},
        }
    )
    return run_recipe(recipe, out, say=say)
