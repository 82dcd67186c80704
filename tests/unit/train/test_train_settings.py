import pytest

from lissom.errors import RecipeError
from lissom.train.settings import TrainSettings


def test_defaults_are_valid():
    assert TrainSettings().distillation == 0.9


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", -1, "epochs=-1: expected 0 or more"),
        ("optimizer", "adam", "optimizer='adam': expected one of sgd, adamw"),
        ("precision", "fp8", "expected one of auto, 32, bf16"),
        ("channels_last", True, "expected one of auto, yes, no"),
        ("learning_rate", 0.0, "expected positive numbers"),
        ("learning_rate", float("nan"), "expected positive numbers"),
        ("temperature", -1.0, "expected positive numbers"),
        ("momentum", 1.0, r"momentum=1.0: expected a number in \[0, 1\)"),
        ("distillation", 1.1, "distillation=1.1"),
        ("ema", 1.0, "ema=1.0"),
        ("weight_decay", float("nan"), "weight_decay=nan"),
    ],
)
def test_refuses(field, value, message):
    with pytest.raises(RecipeError, match=message):
        TrainSettings(**{field: value})
