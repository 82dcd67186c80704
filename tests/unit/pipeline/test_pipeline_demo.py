from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lissom.errors import RecipeError
from lissom.methods.hmc import Hmc
from lissom.pipeline import demo


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Note the recipes, and train nothing."""
    recipes: list[Any] = []
    monkeypatch.setattr(demo, "train", lambda *_all: None)
    monkeypatch.setattr(demo, "run_recipe", lambda recipe, _out, say: recipes.append(recipe))
    return recipes


def quiet(_line: str) -> None:
    pass


def test_what_a_method_is_asked_is_what_it_can_be_held_to(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    demo.run_demo("ahc", tmp_path / "a", say=quiet)
    held = SimpleNamespace(name="hmc", limits=frozenset({"size"}))
    monkeypatch.setattr(demo, "method_called", lambda name: held if name == "hmc" else Hmc())
    demo.run_demo("hmc", tmp_path / "b", say=quiet)
    assert [recipe.budget for recipe in asked] == [{"macs": "0.5"}, {"size": "8x"}]
    assert (tmp_path / "a.original.safetensors").is_file()


def test_an_unknown_method_is_refused_before_any_training(asked: list[Any], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="'hcm' is not known"):
        demo.run_demo("hcm", tmp_path / "a", say=quiet)
    assert asked == []
    assert list(tmp_path.iterdir()) == []
