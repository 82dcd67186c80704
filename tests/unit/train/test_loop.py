import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lissom.errors import DataError, LissomError, RecipeError
from lissom.task import Classification
from lissom.train.evaluate import evaluate
from lissom.train.loop import train
from lissom.train.settings import TrainSettings

TASK = Classification()
SETTINGS = TrainSettings(epochs=3, learning_rate=0.05, precision="32")


def tensors(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a) and a.keys() == b.keys()


def test_learns(data, network):
    model = network()
    history = train(model, data, TASK, replace(SETTINGS, epochs=20))
    assert evaluate(model, data.test, TASK) >= 0.9
    assert history.epochs[-1].loss < 0.5 * history.epochs[0].loss
    assert [record.images for record in history.epochs] == [60] * 20
    assert (history.device, history.precision, history.averaged) == ("cpu", "32", True)


def test_is_a_function_of_its_seed(data, network):
    first, second, third = network(), network(), network()
    train(first, data, TASK, SETTINGS)
    torch.rand(5)
    train(second, data, TASK, SETTINGS)
    train(third, data, TASK, replace(SETTINGS, seed=1))
    assert same(tensors(first), tensors(second))
    assert not same(tensors(first), tensors(third))  # by dropout


def test_leaves_randomness_modes_and_layout_alone(data, network):
    model = network()
    model[1].eval()
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    train(model, data, TASK, replace(SETTINGS, channels_last="yes"))
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert [m.training for m in model] == [True, False] + [True] * 5
    assert all(p.is_contiguous() and p.grad is None for p in model.parameters())


def test_no_epochs_change_nothing(data, network):
    model = network()
    before = tensors(model)
    history = train(model, data, TASK, replace(SETTINGS, epochs=0))
    assert history.epochs == ()
    assert same(before, tensors(model))


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "adamw"},
        {"momentum": 0.0},
        {"weight_decay": 0.1},
        {"warmup_steps": 0},
        {"clip_norm": 0.01},
        {"ema": 0.0},
        {"precision": "bf16"},
        {"learning_rate": 0.06},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_setting_matters(data, network, change):
    plain, other = network(), network()
    train(plain, data, TASK, SETTINGS)
    train(other, data, TASK, replace(SETTINGS, **change))
    assert not same(tensors(plain), tensors(other))


@pytest.mark.parametrize("change", [{"distillation": 0.5}, {"temperature": 1.0}])
def test_distillation_settings_matter_with_a_teacher(data, network, change):
    results = []
    for settings in (SETTINGS, replace(SETTINGS, **change)):
        model = network()
        train(model, data, TASK, settings, teacher=network(seed=1))
        results.append(tensors(model))
    assert not same(*results)


def test_the_student_comes_closer_to_its_teacher(data, network):
    teacher, student = network(seed=1), network(seed=2)
    train(teacher, data, TASK, replace(SETTINGS, epochs=10))
    before = tensors(teacher)
    teacher.train()
    settings = replace(SETTINGS, epochs=10, distillation=1.0)
    history = train(student, data, TASK, settings, teacher=teacher)
    assert history.epochs[-1].loss < 0.3 * history.epochs[0].loss
    assert teacher.training
    assert same(before, tensors(teacher))


def test_without_distillation_the_teacher_is_ignored(data, network):
    alone, taught = network(), network()
    settings = replace(SETTINGS, distillation=0.0)
    train(alone, data, TASK, settings)
    train(taught, data, TASK, settings, teacher=network(seed=1))
    assert same(tensors(alone), tensors(taught))


class Counting(nn.Module):
    calls = 0

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        Counting.calls += 1
        return self.inner(x)


def test_remembered_outputs_are_computed_once_per_view(data, network):
    Counting.calls = 0
    settings = replace(SETTINGS, epochs=6, teacher_views=2)
    history = train(network(), data, TASK, settings, teacher=Counting(network(seed=1)))
    assert Counting.calls == 2 * len(data.train)
    assert len(history.epochs) == 6
    assert data.train.views == 0


def test_remembered_outputs_are_those_of_the_right_image(data, network):
    # With every view seen once, remembering may differ from asking by float16 rounding alone.
    asked, remembered = network(), network()
    a = train(asked, data, TASK, SETTINGS, teacher=network(seed=1))
    r = train(remembered, data, TASK, replace(SETTINGS, teacher_views=3), teacher=network(seed=1))
    assert [e.loss for e in a.epochs] == pytest.approx([e.loss for e in r.epochs], rel=2e-3)
    twice = train(
        network(), data, TASK, replace(SETTINGS, epochs=4, teacher_views=2), teacher=network(seed=1)
    )
    data.train.fix_views(2)
    twice_asked = train(network(), data, TASK, replace(SETTINGS, epochs=4), teacher=network(seed=1))
    losses = [e.loss for e in twice_asked.epochs]
    assert [e.loss for e in twice.epochs] == pytest.approx(losses, rel=2e-3)


def test_remembering_needs_a_loader_that_repeats_itself(data, network):
    plain = DataLoader(TensorDataset(torch.zeros(8, 1, 6, 6), torch.zeros(8).long()), batch_size=4)
    with pytest.raises(RecipeError, match="a DataLoader can't repeat its augmentations"):
        train(
            network(),
            replace(data, train=plain),
            TASK,
            replace(SETTINGS, teacher_views=2),
            teacher=network(),
        )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_diverged_loss_stops_the_run(data, network, value):
    class Diverging(Classification):
        steps = 0

        def loss(self, outputs, batch):
            Diverging.steps += 1
            loss = super().loss(outputs, batch)
            return loss * value if Diverging.steps == 7 else loss

    with pytest.raises(LissomError, match=r"epoch 2, step 3 .*smaller learning_rate \(now 0.05\)"):
        train(network(), data, Diverging(), SETTINGS)


def test_sets_without_batches_or_length(data, network):
    with pytest.raises(DataError, match="training set is empty"):
        train(network(), replace(data, train=[]), TASK, SETTINGS)
    with pytest.raises(DataError, match="a generator, has no length"):
        train(network(), replace(data, train=(x for x in ())), TASK, SETTINGS)


def test_tied_weights_stay_tied(data):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(1, 1, 3, padding=1)
            self.b = nn.Conv2d(1, 1, 3, padding=1)
            self.b.weight = self.a.weight
            self.c = nn.Linear(36, 2)

        def forward(self, x):
            return self.c(self.b(self.a(x)).flatten(1))

    model = Tied()
    before = model.a.weight.clone()
    train(model, data, TASK, SETTINGS)
    assert model.a.weight is model.b.weight
    assert not torch.equal(model.a.weight, before)
