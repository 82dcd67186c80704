from dataclasses import replace

import pytest
from torch import nn

from lissom.errors import RecipeError
from lissom.methods.edp import Edp, EdpSettings
from lissom.pipeline.settings import Settings


@pytest.mark.parametrize("value", ["auto", 1, 16])
def test_alignments(value: str | int) -> None:
    assert Settings(round_to=value).round_to == value


@pytest.mark.parametrize("value", ["half", 0, -8, 2.5])
def test_other_alignments_are_refused(value: object) -> None:
    with pytest.raises(RecipeError, match=r"round_to=.* expected auto or an integer of at least 1"):
        Settings(round_to=value)


def test_from_scratch_there_is_nothing_to_distil_from_but_a_teacher_that_is_given() -> None:
    said: list[str] = []
    settings = Settings(say=said.append)
    scratch, trained = Edp(EdpSettings(start="scratch")), Edp()
    alone = settings.taught_for([scratch, trained]).recover
    assert (alone.distillation, alone.recalibration_images) == (0, 0)
    assert "from the labels alone" in said[0]
    assert settings.taught_for([trained]) == settings
    taught = replace(settings, teacher=nn.Identity())
    assert taught.taught_for([scratch]) == taught
