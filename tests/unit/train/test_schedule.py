import pytest
import torch
from torch import nn

from lissom.train.schedule import MovingAverage, build_optimizer, learning_rate, split_by_decay
from lissom.train.settings import TrainSettings


def test_learning_rate_rises_and_falls():
    settings = TrainSettings(learning_rate=0.4, warmup_steps=10)
    rates = [learning_rate(step, 110, settings) for step in range(110)]
    assert rates[0] == pytest.approx(0.04)
    assert rates[9] == rates[10] == pytest.approx(0.4)
    assert rates[60] == pytest.approx(0.2)
    assert rates[-1] < 0.001
    assert max(rates) == pytest.approx(0.4)


@pytest.mark.parametrize(("epochs", "peak"), [(2, 0.004), (3, 0.01)])
def test_without_a_rate_the_peak_is_that_of_the_length(epochs, peak):
    settings = TrainSettings(epochs=epochs, warmup_steps=0)
    assert learning_rate(0, 100, settings) == peak
    steps = TrainSettings(epochs=epochs, warmup_steps=0, schedule="steps")
    assert learning_rate(0, 100, steps) == peak
    warm = TrainSettings(epochs=epochs, warmup_steps=10)
    assert learning_rate(0, 100, warm) == pytest.approx(peak / 10)
    (group,) = build_optimizer(nn.Linear(2, 2, bias=False), settings).param_groups
    assert group["lr"] == peak


def test_warm_up_is_at_most_a_tenth():
    settings = TrainSettings(learning_rate=1.0, warmup_steps=1000)
    assert learning_rate(2, 30, settings) == 1.0
    assert learning_rate(0, 5, settings) == 1.0


def test_steps_fall_at_half_and_three_quarters():
    settings = TrainSettings(learning_rate=1.0, warmup_steps=0, schedule="steps")
    rates = [learning_rate(step, 100, settings) for step in range(100)]
    assert set(rates[:50]) == {1.0}
    assert rates[50] == rates[74] == pytest.approx(0.1)
    assert rates[75] == rates[99] == pytest.approx(0.01)


def test_no_decay_on_norms_and_biases():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.LayerNorm((2, 4, 4)))
    decayed, free = split_by_decay(model)
    assert [id(p) for p in decayed] == [id(model[0].weight)]
    assert {id(p) for p in free} == {
        id(p) for p in (model[0].bias, *model[1].parameters(), *model[2].parameters())
    }
    model[0].weight.requires_grad_(requires_grad=False)
    assert split_by_decay(model)[0] == []


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_optimizers(name, kind):
    settings = TrainSettings(optimizer=name, momentum=0.8, weight_decay=0.01)
    optimizer = build_optimizer(nn.Linear(2, 2), settings)
    assert type(optimizer) is kind
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.0]


def test_moving_average_follows_the_definition():
    model = nn.BatchNorm1d(2)
    average = MovingAverage(model, decay=0.5)
    expected = model.weight.detach().clone()
    for step, value in enumerate((2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 1.0, 3.0, 5.0)):
        model.weight.data.fill_(value)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    average.copy_to_model()
    assert torch.allclose(model.weight, expected)
    assert set(average.values) == {"weight", "bias", "running_mean", "running_var"}


def test_moving_average_restarts_as_if_nothing_had_been():
    model = nn.Linear(1, 1)
    old, new = MovingAverage(model, decay=0.9), None
    for step in range(8):
        model.weight.data.fill_(float(step))
        if step == 5:
            old.restart(step)
            new = MovingAverage(model, decay=0.9)
        old.update(step)
        if new is not None:
            new.update(step - 5)
    assert old.since == 5
    assert torch.equal(old.values["weight"], new.values["weight"])


def test_moving_average_can_be_restored():
    average = MovingAverage(nn.Linear(1, 1), decay=0.9)
    other = MovingAverage(nn.Linear(1, 1), decay=0.9)
    other.restore(average.values, 3)
    assert other.since == 3
    assert torch.equal(other.values["weight"], average.values["weight"])
