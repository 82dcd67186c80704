from pathlib import Path

import pytest

from lissom.errors import BudgetError, DataError, RecipeError
from lissom.recipe.read import is_factory, parse_override, read_recipe

GOOD = """\
model: {name: lissom:resnet20, weights: w.safetensors}
data:
  name: digits
  batch_size: 64
stages:
  - method: hmc
    tau: 0.3
budget: {macs: 0.5}
recover:
  epochs: 5
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return path


def test_reads_a_recipe(tmp_path: Path) -> None:
    made = read_recipe(written(tmp_path, GOOD))
    assert made.model.name == "lissom:resnet20"
    assert made.stages[0].options == {"tau": 0.3}
    assert made.train_settings().epochs == 5
    assert made.data_options().batch_size == 64


def test_overrides_go_before_the_file(tmp_path: Path) -> None:
    overrides = [
        ("recover.epochs", 1),
        ("stages.0.tau", 0.9),
        ("budget.params", "4x"),
        ("teacher", "lissom:resnet56"),
        ("teacher.weights", "t.pt"),
    ]
    made = read_recipe(written(tmp_path, GOOD), overrides)
    assert made.train_settings().epochs == 1
    assert made.stages[0].options["tau"] == 0.9
    assert made.budget == {"macs": "0.5", "params": "4x"}
    assert made.teacher is not None
    assert made.teacher.weights == Path("t.pt")


def test_a_recipe_can_come_from_the_command_line_alone() -> None:
    made = read_recipe(
        None, [("model.name", "lissom:resnet20"), ("data.name", "digits"), ("budget", "macs=0.5")]
    )
    assert made.stages[0].method == "hmc"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("budget:", "bugdet:", r"r.yaml:8: bugdet: unknown key; did you mean 'budget'"),
        ("weights:", "wieghts:", r"r.yaml:1: model.wieghts: unknown key; did you mean 'weights'"),
        ("batch_size:", "batchsize:", r"r.yaml:4: data.batchsize: .* did you mean 'batch_size'"),
        ("epochs:", "epoch:", r"r.yaml:10: recover.epoch: unknown key; did you mean 'epochs'"),
        ("epochs: 5", "epochs: many", r"r.yaml:10: recover.epochs: should be a valid integer"),
        ("name: digits", "nam: digits", r"r.yaml:2: data.name: missing"),
        ("epochs: 5", "epochs: [", r"r.yaml: not YAML \(.*line 11"),
        ("  - method: hmc\n    tau: 0.3", "  []", r"r.yaml:5: stages: .*at least 1 item"),
        (GOOD, "- a", r"r.yaml: holds a list; expected keys such as model"),
        (GOOD, "", r"r.yaml: holds a NoneType; expected keys"),
    ],
)
def test_mistakes_are_named_with_their_line(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        read_recipe(written(tmp_path, GOOD.replace(old, new)))


def test_round_to_and_seed_are_checked(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    with pytest.raises(RecipeError, match=r"round_to: expected auto or an integer of at least 1"):
        read_recipe(path, [("round_to", 0)])
    with pytest.raises(RecipeError, match=r"seed: should be greater than or equal to 0, got -1"):
        read_recipe(path, [("seed", -1)])


def test_budget_and_data_errors_keep_their_kind(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    with pytest.raises(BudgetError, match=r"r.yaml:8: budget: macs=1.5"):
        read_recipe(path, [("budget.macs", 1.5)])
    with pytest.raises(DataError, match=r"r.yaml:2: data: .*batch_size=0"):
        read_recipe(path, [("data.batch_size", 0)])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"gone.yaml: can't be read \(No such file"):
        read_recipe(tmp_path / "gone.yaml")


def test_a_factory_in_a_file_needs_permission(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD.replace("name: digits", "name: my.package:data"))
    with pytest.raises(RecipeError, match=r"data is 'my.package:data'.*--allow-import"):
        read_recipe(path)
    assert read_recipe(path, factories="allowed").data.name == "my.package:data"


def test_a_factory_from_the_command_line_needs_none() -> None:
    typed = [("model", "my.net:make"), ("data", "digits"), ("budget", "macs=0.5")]
    assert read_recipe(None, typed).model.name == "my.net:make"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.b:c", True), ("lissom:resnet20", False), ("timm:x", False), ("runs/a", False)],
)
def test_factories_are_told_from_names(name: str, expected: bool) -> None:
    assert is_factory(name) is expected


def test_values_of_overrides_are_yaml() -> None:
    assert parse_override("recover.epochs=3") == ("recover.epochs", 3)
    assert parse_override("ignore=[a, b]") == ("ignore", ["a", "b"])
    assert parse_override("a=b=c") == ("a", "b=c")


@pytest.mark.parametrize("text", ["epochs", "=3", "a=[1"])
def test_overrides_that_say_nothing(text: str) -> None:
    with pytest.raises(RecipeError, match="--set"):
        parse_override(text)


def test_places_that_do_not_exist(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    with pytest.raises(RecipeError, match=r"stages.1: expected a number below 1"):
        read_recipe(path, [("stages.1.tau", 1)])
    with pytest.raises(RecipeError, match=r"budget.macs: holds 0.5, which has no parts"):
        read_recipe(path, [("budget.macs.a", 1)])
