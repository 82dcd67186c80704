from pathlib import Path

import pytest
import torch

from lissom.data.load import load_data
from lissom.data.options import LoadedData
from lissom.errors import DataError, ModelError, RecipeError
from lissom.methods.hmc import HmcSettings
from lissom.pipeline.recipe_run import (
    check_out,
    data_of,
    default_cache,
    inputs_of,
    job_of,
    methods_of,
    network_of,
)
from lissom.plan.plan import Source
from lissom.recipe.read import read_recipe
from lissom.recipe.recipe import ModelSection, Recipe
from lissom.task import Data

HERE = "test_pipeline_recipe_run"


def own_data() -> Data:
    return load_data("digits").data


def own_loaded_data() -> LoadedData:
    return load_data("digits")


def own_number() -> int:
    return 3


def recipe(*overrides: tuple[str, object]) -> Recipe:
    basic = (("model", "lissom:digits_resnet"), ("data", "digits"), ("budget", "macs=0.5"))
    return read_recipe(None, [*basic, *overrides])


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("1x3x224x224", [(1, 3, 224, 224)]),
        ("16x3x8x8", [(1, 3, 8, 8)]),
        ("1x3x8x8,1x5", [(1, 3, 8, 8), (1, 5)]),
    ],
)
def test_shapes_become_zeros_of_batch_1(text: str, shapes: list[tuple[int, ...]]) -> None:
    assert [tuple(part.shape) for part in inputs_of(text)] == shapes
    assert not any(part.any() for part in inputs_of(text))


@pytest.mark.parametrize("text", ["", "3", "axb", "1x0x8", "1x-3x8", "1x3,", "1x3;1x3", "0x3x8x8"])
def test_other_texts_are_no_shapes(text: str) -> None:
    with pytest.raises(RecipeError, match="expected sizes of at least 1 with the batch in front"):
        inputs_of(text)


def test_a_network_remembers_where_it_comes_from() -> None:
    section = ModelSection(name="lissom:resnet8", arguments={"classes": 3})
    model, base = network_of(section)
    assert base.source == Source("lissom:resnet8", (("classes", 3),))
    assert base.decisions == ()
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    _, own = network_of(ModelSection(name="lissom.models.resnet_cifar:digits_resnet"))
    assert own.source is None
    assert own.signature


@pytest.mark.parametrize("name", ["resnet56", "runs/none", ".", "lissom"])
def test_other_names_get_all_the_choices(name: str) -> None:
    with pytest.raises(
        ModelError, match="expected lissom:NAME, torchvision:NAME, timm:NAME, package"
    ):
        network_of(ModelSection(name=name))


def test_data_of_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    assert data_of(recipe(("data", f"{HERE}:own_loaded_data"))).example_inputs[0].shape[1] == 1
    given = data_of(recipe(("data", f"{HERE}:own_data"), ("input", "1x1x8x8")))
    assert given.example_inputs[0].shape == (1, 1, 8, 8)
    for name, found in (("own_data", "Data"), ("own_number", "int")):
        with pytest.raises(DataError, match=f"{name}: gave a {found}; expected a LoadedData"):
            data_of(recipe(("data", f"{HERE}:{name}")))


def test_methods_get_their_settings() -> None:
    stages = [{"method": "nahc", "images": 64}, "hmc"]
    first, second = methods_of(recipe(("stages", stages)))
    assert first.settings == HmcSettings(variant="nahc", images=64)
    assert second.settings == HmcSettings()
    with pytest.raises(RecipeError, match="'hcm' is not known; choose one of ahc, "):
        methods_of(recipe(("stages", ["hcm"])))
    with pytest.raises(RecipeError, match="expected one of hmc, nahc, ahc"):
        methods_of(recipe(("stages.0.variant", "best")))


def test_only_new_empty_or_interrupted_folders_are_taken(tmp_path: Path) -> None:
    check_out(tmp_path / "new", resume=False)
    check_out(tmp_path, resume=False)
    check_out(tmp_path, resume=True)
    (tmp_path / ".work").mkdir()
    check_out(tmp_path, resume=True)
    with pytest.raises(RecipeError, match="interrupted run; continue it with --resume"):
        check_out(tmp_path, resume=False)
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(RecipeError, match="holds a finished run"):
        check_out(tmp_path, resume=True)
    with pytest.raises(RecipeError, match="is a file, expected a folder"):
        check_out(tmp_path / "report.json", resume=False)


def test_where_sensitivities_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LISSOM_CACHE", str(tmp_path / "own"))
    assert default_cache() == tmp_path / "own"
    monkeypatch.delenv("LISSOM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "lissom"


def test_weights_are_refused_where_a_method_starts_without() -> None:
    stages = [{"method": "edp", "start": "scratch"}]
    methods_of(recipe(("stages", stages)))
    with pytest.raises(RecipeError, match=r"model.weights: a.pt is given, but stages.0"):
        methods_of(recipe(("stages", stages), ("model.weights", "a.pt")))


def test_random_weights_are_those_of_the_seed() -> None:
    torch.rand(3)
    before = torch.get_rng_state()
    first, again, other = (
        job_of(recipe(("seed", seed)), lambda _line: None, Path("logs")).model.state_dict()
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], tensor) for name, tensor in again.items())
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])
    assert torch.equal(torch.get_rng_state(), before)
