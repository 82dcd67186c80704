import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from lissom.errors import DataError
from lissom.task import Classification
from lissom.train.evaluate import evaluate
from lissom.train.loop import train
from lissom.train.recalibrate import recalibrate
from lissom.train.recover import recover
from lissom.train.settings import TrainSettings

TASK = Classification()
SETTINGS = TrainSettings(epochs=0, recalibration_images=200, precision="32")


@pytest.fixture
def trained(data, network):
    model = network().eval()
    train(model, data, TASK, TrainSettings(epochs=20, learning_rate=0.05, precision="32"))
    return model


def spoiled(model):
    """The same network with statistics that belong to other inputs."""
    other = copy.deepcopy(model)
    other[1].running_mean.add_(3)
    other[1].running_var.mul_(20)
    return other


@pytest.mark.parametrize("taught", [True, False], ids=["teacher", "loss"])
def test_repairs_wrong_statistics(data, trained, taught):
    model = spoiled(trained)
    result = recalibrate(model, data, TASK, SETTINGS, teacher=trained if taught else None)
    assert result.share == 1.0
    assert result.images >= 200
    distances = dict(result.distances)
    assert distances[1.0] < distances[0.5] < distances[0.0]
    assert torch.allclose(model[1].running_mean, trained[1].running_mean, atol=0.1)


class Shifting(nn.Module):
    """Writes into its input."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        x -= 0.5
        return self.inner(x.mul_(3))


def test_a_network_may_write_into_its_input(data, network):
    """Batches that stay in memory stay what they are, and the teacher sees what its pupil sees."""
    kept = replace(data, train=list(data.train), held_out=list(data.held_out))
    before = [images.clone() for images, _ in (*kept.train, *kept.held_out)]
    torch.manual_seed(0)
    model = Shifting(network()).eval()
    teacher = copy.deepcopy(model)
    unchanged = recalibrate(model, kept, TASK, SETTINGS, teacher=teacher)
    assert dict(unchanged.distances)[0.0] == pytest.approx(0, abs=1e-6)
    recover(model, kept, TASK, replace(SETTINGS, epochs=1), teacher=teacher)
    assert evaluate(model, kept.held_out, TASK) == evaluate(model, kept.held_out, TASK)
    for (images, _), same in zip((*kept.train, *kept.held_out), before, strict=True):
        assert torch.equal(images, same)


def test_never_makes_it_worse(data, trained):
    # The training images are another distribution here, so new statistics would harm.
    bright = [(x * 5 + 3, y) for x, y in data.train]
    model = copy.deepcopy(trained)
    result = recalibrate(model, replace(data, train=bright), TASK, SETTINGS, teacher=trained)
    assert result.share == 0.0
    assert dict(result.distances)[0.0] == pytest.approx(0, abs=1e-6)
    for name, tensor in model.state_dict().items():
        if "num_batches" not in name:
            assert torch.equal(tensor, trained.state_dict()[name]), name


def test_takes_a_blend_where_it_is_best(data, trained):
    batches = list(data.held_out)
    fresh = copy.deepcopy(trained)
    fresh[1].reset_running_stats()
    fresh[1].momentum = None
    with torch.no_grad():
        for x, _ in batches:
            fresh[1].train()(fresh[0](x))
    # Put the old statistics as far on one side of the right ones as the new ones are on the other.
    model = copy.deepcopy(trained)
    model[1].running_mean.copy_(2 * trained[1].running_mean - fresh[1].running_mean)
    model[1].running_var.copy_(2 * trained[1].running_var - fresh[1].running_var)
    assert float(model[1].running_var.min()) > 0
    result = recalibrate(model, replace(data, train=batches), TASK, SETTINGS, teacher=trained)
    assert result.share == 0.5
    assert torch.allclose(model[1].running_mean, trained[1].running_mean, atol=1e-5)


def test_is_the_cumulative_average(data):
    model = nn.Sequential(nn.BatchNorm2d(1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))
    batches = [(torch.randn(8, 1, 6, 6) + i, torch.zeros(8).long()) for i in range(3)]
    model[0].running_mean.fill_(50)
    settings = replace(SETTINGS, recalibration_images=24)
    with torch.no_grad():
        model[3].weight.fill_(
            0
        )  # every statistic gives the same output: nothing is strictly better
    assert recalibrate(model, replace(data, train=batches), TASK, settings).share == 0.0
    with torch.no_grad():
        model[3].weight.copy_(torch.tensor([[-1.0], [1.0]]))
    held_out = [(x, torch.ones(8).long()) for x, _ in batches]
    changed = replace(data, train=batches, held_out=held_out)
    assert recalibrate(model, changed, TASK, settings).share == 1.0
    mean = torch.stack([x.mean() for x, _ in batches]).mean()
    assert float(model[0].running_mean) == pytest.approx(float(mean), abs=1e-5)


def test_settings_of_the_norms_survive(data, trained):
    trained[1].momentum = 0.3
    trained.train()
    random = torch.get_rng_state()
    recalibrate(trained, data, TASK, SETTINGS)
    assert trained[1].momentum == 0.3
    assert trained[1].training
    assert torch.equal(random, torch.get_rng_state())


def test_nothing_to_recalibrate(data, trained):
    linear = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    assert recalibrate(linear, data, TASK, SETTINGS) is None
    settings = replace(SETTINGS, recalibration_images=0)
    assert recalibrate(trained, data, TASK, settings) is None


@pytest.mark.parametrize(("field", "message"), [("train", "training"), ("held_out", "held-out")])
def test_empty_sets(data, trained, field, message):
    with pytest.raises(DataError, match=f"{message} set"):
        recalibrate(trained, replace(data, **{field: []}), TASK, SETTINGS)


def test_recover_without_epochs_only_recalibrates(data, trained):
    model = spoiled(trained)
    history = recover(model, data, TASK, SETTINGS, teacher=trained)
    assert history.epochs == ()
    assert history.recalibration.share == 1.0
    assert torch.equal(model[0].weight, trained[0].weight)


def test_recover_trains_then_recalibrates(data, network):
    model = network()
    settings = replace(SETTINGS, epochs=3, learning_rate=0.05)
    history = recover(model, data, TASK, settings)
    assert len(history.epochs) == 3
    assert history.recalibration.images >= 200
    again = network()
    recover(again, data, TASK, settings)
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in model.state_dict().items())
