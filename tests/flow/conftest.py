"""One small run from beginning to end, shared by the tests of the whole flow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from flow_runs import SMALL, Finished

from lissom.artifacts import weights_content
from lissom.data.load import load_data
from lissom.models.catalog import build_model
from lissom.pipeline.recipe_run import run_recipe
from lissom.recipe.read import read_recipe
from lissom.task import Classification
from lissom.train.loop import train
from lissom.train.settings import TrainSettings


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LISSOM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the digits network after a short training."""
    torch.manual_seed(0)
    model = build_model("lissom:digits_resnet")
    settings = TrainSettings(epochs=4, learning_rate=0.1, distillation=0.0, warmup_steps=10)
    train(model, load_data("digits").data, Classification(), settings)
    path = tmp_path_factory.mktemp("original") / "digits.safetensors"
    path.write_bytes(weights_content(model))
    return path


@pytest.fixture(scope="session")
def recipe_file(weights: Path) -> Path:
    """A recipe for that network."""
    path = weights.with_name("recipe.yaml")
    path.write_text(SMALL.replace("WEIGHTS", os.fspath(weights)))
    return path


@pytest.fixture(scope="session")
def finished(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The run of that recipe."""
    out = tmp_path_factory.mktemp("runs") / "out"
    recipe, said = read_recipe(recipe_file), []
    result = run_recipe(recipe, out, say=said.append)
    return Finished(recipe, out, result, said)
