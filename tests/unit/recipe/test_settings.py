from dataclasses import dataclass

import pytest

from lissom.errors import DataError, RecipeError
from lissom.recipe.settings import settings_from


@dataclass(frozen=True, slots=True)
class Options:
    rounds: int = 2
    tau: float | None = None
    families: tuple[str, ...] = ("tucker2",)
    layout: str = "auto"
    align: int | str = "auto"
    whiten: bool = True

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise DataError(f"rounds={self.rounds}: expected at least 1")


@dataclass(frozen=True, slots=True)
class Needy:
    size: int


def test_values_are_read_by_the_type_of_their_field() -> None:
    given = {"rounds": "3", "tau": "1e-3", "families": ["a", "b"], "align": 8, "whiten": False}
    made = settings_from(Options, given, "stages.0")
    assert made == Options(3, 1e-3, ("a", "b"), "auto", 8, False)


@pytest.mark.parametrize(("given", "layout"), [(True, "yes"), (False, "no"), (32, "32")])
def test_texts_survive_what_yaml_makes_of_them(given: object, layout: str) -> None:
    assert settings_from(Options, {"layout": given}, "recover").layout == layout


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(
        RecipeError, match=r"^stages.0.famlies: unknown key; did you mean 'families'"
    ):
        settings_from(Options, {"famlies": []}, "stages.0")


def test_a_key_like_no_other_lists_all() -> None:
    with pytest.raises(RecipeError, match=r"known are align, families, .*method.*, whiten"):
        settings_from(Options, {"zzz": 1}, "stages.0", beside=("method",))


def test_a_value_of_the_wrong_type_is_shown() -> None:
    with pytest.raises(
        RecipeError, match=r"^stages.0.rounds: should be a valid integer.*got 'two'"
    ):
        settings_from(Options, {"rounds": "two"}, "stages.0")


def test_the_place_inside_a_list_is_named_without_type_names() -> None:
    with pytest.raises(RecipeError, match=r"^stages.0.families.1: should be a valid string"):
        settings_from(Options, {"families": ["a", None]}, "stages.0")


def test_what_the_dataclass_refuses_keeps_its_type_and_gains_the_place() -> None:
    with pytest.raises(DataError, match=r"^stages.0: rounds=0: expected at least 1"):
        settings_from(Options, {"rounds": 0}, "stages.0")


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(RecipeError, match=r"^x: .*size"):
        settings_from(Needy, {}, "x")
