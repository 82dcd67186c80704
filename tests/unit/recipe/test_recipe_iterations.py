import pytest

from lissom.errors import RecipeError
from lissom.recipe.iterations import brief_epochs, check_iterations


@pytest.mark.parametrize(("iterations", "epochs"), [(1, None), (2, None), (2, 0), (9, 3)])
def test_sound_numbers_pass(iterations: int, epochs: int | None) -> None:
    check_iterations(iterations, epochs)


@pytest.mark.parametrize(
    ("iterations", "epochs", "message"),
    [
        (0, None, "iterations=0: expected 1"),
        (-2, 3, "iterations=-2: expected 1"),
        (3, -1, "iteration_epochs=-1: expected 0"),
        (1, 0, "iteration_epochs=0: they follow each iteration but the last"),
    ],
)
def test_others_are_named(iterations: int, epochs: int | None, message: str) -> None:
    with pytest.raises(RecipeError, match=f"^{message}"):
        check_iterations(iterations, epochs)


@pytest.mark.parametrize(
    ("given", "epochs", "brief"), [(None, 10, 1), (None, 11, 2), (None, 0, 0), (5, 10, 5)]
)
def test_a_tenth_unless_asked(given: int | None, epochs: int, brief: int) -> None:
    assert brief_epochs(given, epochs) == brief
