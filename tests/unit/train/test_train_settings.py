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


@pytest.mark.parametrize(("epochs", "rate"), [(1, 0.004), (2, 0.004), (3, 0.01), (60, 0.01)])
def test_a_long_recovery_has_a_higher_rate(epochs, rate):
    settings = TrainSettings(epochs=epochs)
    assert (settings.peak_rate, settings.base_rate) == (rate, 0.004)


def test_a_rate_that_is_given_holds_at_any_length():
    for epochs in (1, 60):
        settings = TrainSettings(epochs=epochs, learning_rate=0.03)
        assert settings.peak_rate == settings.base_rate == 0.03
