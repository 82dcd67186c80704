import pytest

from lissom.errors import RecipeError
from lissom.pipeline.settings import Settings


@pytest.mark.parametrize("value", ["auto", 1, 16])
def test_alignments(value: str | int) -> None:
    assert Settings(round_to=value).round_to == value


@pytest.mark.parametrize("value", ["half", 0, -8, 2.5])
def test_other_alignments_are_refused(value: object) -> None:
    with pytest.raises(RecipeError, match=r"round_to=.* expected auto or an integer of at least 1"):
        Settings(round_to=value)
