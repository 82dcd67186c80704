from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from lissom.errors import BudgetError, RecipeError
from lissom.recipe.recipe import DataSection, ModelSection, Recipe, Stage


def recipe(**changes: object) -> Recipe:
    content = {"model": "lissom:resnet20", "data": "digits", "budget": {"macs": 0.5}}
    return Recipe.model_validate(content | changes)


@dataclass(frozen=True)
class MethodSettings:
    variant: str = "hmc"
    tau: float | None = None
    ratios: tuple[float, ...] = (0.25, 0.5)


def test_a_name_is_short_for_a_section() -> None:
    assert recipe().model == ModelSection(name="lissom:resnet20")
    assert recipe().data == DataSection(name="digits")
    assert recipe(stages=["hmc"]).stages == (Stage(method="hmc"),)


def test_options_stand_beside_the_name() -> None:
    data = recipe(data={"name": "cifar10", "dir": "there", "batch_size": 64}).data
    assert data.dir == Path("there")
    assert data.options == {"batch_size": 64}


@pytest.mark.parametrize("name", ["nahc", "ahc"])
def test_variants_of_hmc_are_methods_of_their_own_name(name: str) -> None:
    stage = Stage.model_validate({"method": name, "tau": 1})
    assert stage == Stage(method="hmc", options={"tau": 1, "variant": name})


def test_contradicting_variant_is_refused() -> None:
    with pytest.raises(ValidationError, match="drop one"):
        Stage.model_validate({"method": "nahc", "variant": "ahc"})


def test_stage_settings_are_typed() -> None:
    stage = Stage.model_validate({"method": "hmc", "tau": "0.5", "ratios": [0.1]})
    assert stage.settings(MethodSettings, "stages.0") == MethodSettings("hmc", 0.5, (0.1,))
    with pytest.raises(RecipeError, match=r"stages.0.tua: unknown key; did you mean 'tau'"):
        Stage.model_validate({"method": "hmc", "tua": 1}).settings(MethodSettings, "stages.0")


def test_seed_and_device_reach_training_and_data() -> None:
    made = recipe(seed=7, device="cpu", recover={"epochs": 3})
    assert made.train_settings().seed == 7
    assert made.train_settings().device == "cpu"
    assert made.train_settings().epochs == 3
    assert made.data_options().seed == 7


def test_a_seed_of_recovery_alone_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"recover.seed: stands at the top"):
        recipe(recover={"seed": 3})


def test_bad_training_settings_are_refused_at_once() -> None:
    with pytest.raises(
        RecipeError, match=r"recover: optimizer='lbfgs': expected one of sgd, adamw"
    ):
        recipe(recover={"optimizer": "lbfgs"})


def test_budget_is_kept_as_it_was_written() -> None:
    made = recipe(budget={"macs": "62.7M", "params": 0.5})
    assert made.budget == {"macs": "62.7M", "params": "0.5"}
    assert str(made.limits) in {"params=0.5,macs=62.7M", "macs=62.7M,params=0.5"}
    assert recipe(budget="macs=0.5,params=4x").budget == {"params": "4x", "macs": "0.5"}


@pytest.mark.parametrize("given", [{"macs": 0}, {"macs": 1.5}, {}, {"flops": 0.5}])
def test_meaningless_budgets_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(BudgetError, match="budget"):
        recipe(budget=given)


def test_effective_recipe_spells_everything_out_and_repeats_the_run() -> None:
    made = recipe(
        model={"name": "lissom:resnet20", "weights": "w.safetensors", "arguments": {"classes": 5}},
        stages=["nahc"],
        recover={"epochs": 3, "channels_last": True},
        ignore=["fc"],
        teacher="lissom:resnet56",
        seed=3,
    )
    settings = made.stages[0].settings(MethodSettings, "stages.0")
    content = yaml.safe_load(made.to_yaml([settings]))
    assert content["stages"] == [
        {"method": "hmc", "variant": "nahc", "tau": None, "ratios": [0.25, 0.5]}
    ]
    assert content["recover"]["learning_rate"] == made.train_settings().learning_rate
    assert content["data"]["batch_size"] == 128
    again = Recipe.model_validate(content)
    assert again.to_yaml([settings]) == made.to_yaml([settings])
    assert again.train_settings() == made.train_settings()
    assert again.data_options() == made.data_options()
    assert again.model == made.model
    assert again.teacher == made.teacher


def test_effective_recipe_without_stage_settings_shows_what_was_asked() -> None:
    content = yaml.safe_load(recipe(stages=[{"method": "hmc", "tau": 0.5}]).to_yaml())
    assert content["stages"] == [{"method": "hmc", "tau": 0.5}]


def test_iterations_stand_beside_the_method_and_are_no_setting_of_it() -> None:
    given = {"method": "nahc", "iterations": 3, "iteration_epochs": 2, "tau": 1}
    stage = Stage.model_validate(given)
    assert (stage.method, stage.iterations, stage.iteration_epochs) == ("hmc", 3, 2)
    assert stage.options == {"variant": "nahc", "tau": 1}
    misspelt = Stage.model_validate({"method": "hmc", "iteration": 3})
    with pytest.raises(RecipeError, match=r"stages.1.iteration: unknown key; did you mean 'iter"):
        misspelt.settings(MethodSettings, "stages.1")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"iterations": 0}, r"^stages\.1: iterations=0: expected 1"),
        ({"iteration_epochs": 2}, r"^stages\.1: iteration_epochs=2: .* there is only one"),
        ({"iterations": 2, "iteration_epochs": -3}, r"^stages\.1: iteration_epochs=-3: expected 0"),
    ],
)
def test_iterations_that_mean_nothing_are_refused(given: dict[str, int], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(stages=["hmc", {"method": "hmc"} | given])


@pytest.mark.parametrize("given", ["3", 2.0, True])
def test_iterations_are_whole_numbers(given: object) -> None:
    with pytest.raises(ValidationError, match="iterations"):
        recipe(stages=[{"method": "hmc", "iterations": given}])


def test_the_effective_recipe_says_how_brief_recoveries_are() -> None:
    stages = ["hmc", {"method": "hmc", "iterations": 3}]
    made = recipe(stages=stages, recover={"epochs": 15})
    content = yaml.safe_load(made.to_yaml())
    assert content["stages"] == [
        {"method": "hmc"},
        {"method": "hmc", "iterations": 3, "iteration_epochs": 2},
    ]
    again = Recipe.model_validate(content)
    assert again.to_yaml() == made.to_yaml()
    # A workspace of a run at once knows nothing of iterations.
    assert made.model_dump(mode="json")["stages"][0] == {"method": "hmc", "options": {}}


def test_conditions_of_latency_are_checked_and_spelled_out() -> None:
    base = {"model": "lissom:resnet8", "data": "digits", "budget": "latency=0.5"}
    recipe = Recipe.model_validate({**base, "latency": {"threads": 2, "batch": 8}})
    assert (recipe.conditions().threads, recipe.conditions().batch) == (2, 8)
    spelled = yaml.safe_load(recipe.to_yaml())["latency"]
    assert spelled == {"batch": 8, "threads": 2, "runs": 50, "warmup": 10, "runtime": "onnxruntime"}
    for wrong, message in (
        ({"threads": 0}, r"latency\.threads must be at least 1, got 0"),
        ({"thread": 1}, r"latency\.thread: unknown key; did you mean 'threads'"),
        ({"runtime": "tvm"}, r"latency\.runtime='tvm': expected onnxruntime, openvino, torch"),
    ):
        with pytest.raises(RecipeError, match=message):
            Recipe.model_validate({**base, "latency": wrong})
