"""What takes part in every step of a training."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from lissom.errors import RecipeError
from lissom.extension import StepState
from lissom.task import Classification
from lissom.train import loop
from lissom.train.checkpoint import Checkpoint
from lissom.train.loop import train
from lissom.train.schedule import MovingAverage, learning_rate
from lissom.train.settings import TrainSettings

TASK = Classification()
SETTINGS = TrainSettings(epochs=3, learning_rate=0.05, precision="32")


def tensors(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a) and a.keys() == b.keys()


class KilledError(Exception):
    pass


class Silent:
    """Takes part and does nothing."""

    def learns(self):
        return ()

    def without_decay(self):
        return ()

    def penalty(self):
        return None

    def after_step(self, step):
        pass

    def after_average(self):
        pass

    def status(self):
        return ""

    def scalars(self):
        return {}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class Shrinking(Silent):
    """Adds to the loss, shrinks the first convolution towards exact zeros, counts, remembers."""

    def __init__(self, model):
        self.weight, self.calls = model[0].weight, []
        self.strength, self.steps = torch.tensor(0.01), torch.tensor(0)

    def penalty(self):
        self.calls.append("penalty")
        return self.strength * self.weight.square().sum()

    @torch.no_grad()
    def after_step(self, step: StepState):
        self.calls.append(step)
        self.steps += 1
        self.strength *= 1 + 0.1 * torch.rand(())
        self.weight.copy_(nn.functional.softshrink(self.weight, step.learning_rate * 0.5))
        momentum = step.optimizer.state[self.weight]["momentum_buffer"]
        momentum.mul_(self.weight != 0)

    @torch.no_grad()
    def after_average(self):
        self.calls.append("after_average")
        self.weight[self.weight.abs() < 1e-3] = 0

    def status(self):
        self.calls.append("status")
        return f"strength {float(self.strength):.3f}"

    def scalars(self):
        return {"strength": self.strength, "steps": int(self.steps)}

    def state_dict(self):
        return {"strength": self.strength, "steps": self.steps}

    def load_state_dict(self, state):
        self.strength, self.steps = state["strength"].clone(), state["steps"].clone()


def test_who_does_nothing_changes_nothing(data, network):
    alone, accompanied = network(), network()
    train(alone, data, TASK, SETTINGS)
    history = train(accompanied, data, TASK, SETTINGS, companion=Silent())
    assert same(tensors(alone), tensors(accompanied))
    assert [record.scalars for record in history.epochs] == [{}] * 3


def test_it_is_called_in_its_place(data, network, monkeypatch):
    model = network()
    companion = Shrinking(model)
    update, calls = MovingAverage.update, companion.calls
    monkeypatch.setattr(
        MovingAverage, "update", lambda *given: (calls.append("average"), update(*given))
    )
    history = train(model, data, TASK, SETTINGS, companion=companion)
    steps = [call for call in calls if isinstance(call, StepState)]
    assert [step.step for step in steps] == list(range(12))
    assert {step.steps for step in steps} == {12}
    assert steps[-1].progress == 1.0
    rates = [learning_rate(step, 12, SETTINGS) for step in range(12)]
    assert [step.learning_rate for step in steps] == rates
    order = [type(call).__name__ if isinstance(call, StepState) else call for call in calls]
    assert order.count("status") == 3  # once per epoch of four steps
    course = [call for call in order if call != "status"]
    assert course == ["penalty", "StepState", "average"] * 12 + ["after_average"]
    assert [record.scalars["steps"] for record in history.epochs] == [4, 8, 12]


def test_without_an_average_there_is_nothing_to_restore(data, network):
    model = network()
    companion = Shrinking(model)
    train(model, data, TASK, replace(SETTINGS, ema=0.0), companion=companion)
    assert "after_average" not in companion.calls


class Jumping(Silent):
    """Turns a layer around at one step, as a change of coordinates would."""

    def __init__(self, model, says):
        self.weight, self.says = model[6].weight, says

    @torch.no_grad()
    def after_step(self, step):
        if step.step == 5:
            self.weight.neg_()
        return self.says and step.step == 5


def test_after_a_jump_the_average_starts_anew(data, network, tmp_path):
    class Dying(Jumping):
        def after_step(self, step):
            if step.step == 9:
                raise KilledError
            return super().after_step(step)

    Dying.__qualname__ = Jumping.__qualname__
    last, mixed, anew, resumed = network(), network(), network(), network()
    train(last, data, TASK, replace(SETTINGS, ema=0.0), companion=Jumping(last, says=False))
    train(mixed, data, TASK, SETTINGS, companion=Jumping(mixed, says=False))
    train(anew, data, TASK, SETTINGS, companion=Jumping(anew, says=True))

    def distance(model):
        return float((model[6].weight - last[6].weight).detach().norm())

    assert distance(anew) < 0.7 * distance(mixed)
    assert distance(anew) > 0
    broken = network()
    companion = Dying(broken, says=True)
    with pytest.raises(KilledError):
        train(broken, data, TASK, SETTINGS, checkpoint=Checkpoint(tmp_path), companion=companion)
    companion = Jumping(resumed, says=True)
    train(resumed, data, TASK, SETTINGS, checkpoint=Checkpoint(tmp_path), companion=companion)
    assert same(tensors(resumed), tensors(anew))


def test_the_penalty_is_trained_on_and_not_told_as_loss(data, network):
    class Constant(Silent):
        def penalty(self):
            return torch.tensor(2.0)

    class Pulling(Silent):
        def __init__(self, model):
            self.weight = model[0].weight

        def penalty(self):
            return 10 * self.weight.square().sum()

    plain, dearer, pulled = network(), network(), network()
    alone = train(plain, data, TASK, SETTINGS)
    history = train(dearer, data, TASK, SETTINGS, companion=Constant())
    assert [e.loss for e in history.epochs] == [e.loss for e in alone.epochs]
    assert same(tensors(plain), tensors(dearer))  # a constant has no gradient
    train(pulled, data, TASK, SETTINGS, companion=Pulling(pulled))
    assert pulled[0].weight.norm() < 0.5 * plain[0].weight.norm()


def test_what_it_edits_is_trained_on_and_averaged(data, network):
    alone, shrunk = network(), network()
    settings = replace(SETTINGS, ema=0.0)
    train(alone, data, TASK, settings)
    train(shrunk, data, TASK, settings, companion=Shrinking(shrunk))
    assert (shrunk[0].weight == 0).sum() > (alone[0].weight == 0).sum()
    assert not torch.equal(alone[6].weight, shrunk[6].weight)
    averaged = network()
    train(averaged, data, TASK, SETTINGS, companion=Shrinking(averaged))
    assert (averaged[0].weight == 0).any()
    assert not same(tensors(averaged), tensors(shrunk))


def test_it_sees_the_momenta_that_the_optimizer_uses(data, network):
    class Stopping(Silent):
        def __init__(self, model):
            self.weight = model[0].weight

        def after_step(self, step):
            step.optimizer.state[self.weight]["momentum_buffer"].zero_()

    plain, stopped = network(), network()
    train(plain, data, TASK, SETTINGS)
    train(stopped, data, TASK, SETTINGS, companion=Stopping(stopped))
    assert not torch.equal(plain[0].weight, stopped[0].weight)


def test_the_optimizer_leaves_what_the_companion_learns_alone(data, network):
    class Learning(Silent):
        def __init__(self, model):
            self.own, self.gradients = model[6].bias, []

        def learns(self):
            return (self.own,)

        def after_step(self, step):
            stepped = {id(p) for group in step.optimizer.param_groups for p in group["params"]}
            assert id(self.own) not in stepped
            self.gradients.append(float(self.own.grad.abs().sum()))
            self.own.grad = None

    model = network()
    before = model[6].bias.detach().clone()
    companion = Learning(model)
    train(model, data, TASK, replace(SETTINGS, ema=0), companion=companion)
    assert torch.equal(model[6].bias, before)
    assert min(companion.gradients) > 0


def test_weight_decay_leaves_its_parameters_alone(data, network):
    class Sparing(Silent):
        def __init__(self, model):
            self.spared, self.groups = model[0].weight, []

        def without_decay(self):
            return (self.spared,)

        def after_step(self, step):
            self.groups = step.optimizer.param_groups

    model = network()
    companion = Sparing(model)
    train(model, data, TASK, SETTINGS, companion=companion)
    decay = {id(p): group["weight_decay"] for group in companion.groups for p in group["params"]}
    assert decay[id(model[0].weight)] == 0
    assert decay[id(model[6].weight)] == SETTINGS.weight_decay
    assert len(decay) == len(list(model.parameters()))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_killed_run_resumes_bit_for_bit_with_it(data, network, tmp_path, optimizer):
    class Rescaling(Shrinking):
        def after_step(self, step):
            if optimizer == "sgd":
                super().after_step(step)
            else:
                step.optimizer.state[self.weight]["exp_avg"].mul_(1 - self.strength)
                self.strength *= 1.1

    class Dying(Rescaling):
        def after_step(self, step):
            super().after_step(step)
            if step.step == 9:
                raise KilledError

    settings = replace(SETTINGS, epochs=4, optimizer=optimizer)
    whole, broken, resumed = network(), network(), network(seed=5)
    expected = train(whole, data, TASK, settings, companion=Rescaling(whole))
    checkpoint = Checkpoint(tmp_path)
    Dying.__qualname__ = Rescaling.__qualname__
    with pytest.raises(KilledError):
        train(broken, data, TASK, settings, checkpoint=checkpoint, companion=Dying(broken))
    history = train(
        resumed, data, TASK, settings, checkpoint=checkpoint, companion=Rescaling(resumed)
    )
    assert same(tensors(whole), tensors(resumed))
    for name in ("loss", "learning_rate", "scalars"):
        assert [getattr(r, name) for r in history.epochs] == [
            getattr(r, name) for r in expected.epochs
        ], name

    finished = network(seed=6)
    last = Rescaling(finished)
    train(finished, data, TASK, settings, checkpoint=checkpoint, companion=last)
    assert same(tensors(whole), tensors(finished))
    assert last.calls == ["after_average"]


def test_a_training_without_it_is_another_one(data, network, tmp_path):
    model = network()
    train(model, data, TASK, SETTINGS, checkpoint=Checkpoint(tmp_path), companion=Silent())
    with pytest.raises(RecipeError, match='companion was "Silent", is null'):
        train(copy.deepcopy(model), data, TASK, SETTINGS, checkpoint=Checkpoint(tmp_path))


def test_its_status_stands_in_the_progress_line(data, network, monkeypatch):
    notes = []

    class Noting:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def advance(self, steps=1, note=""):
            notes.append(note)

    monkeypatch.setattr(loop, "meter", lambda description, total: Noting())
    model = network()
    train(model, data, TASK, SETTINGS, companion=Shrinking(model))
    said = [note for note in notes if note]
    assert len(said) == 12
    assert all(", strength 0.0" in note and "images/s, " in note for note in said)
    notes.clear()
    train(network(), data, TASK, SETTINGS)
    assert all(note.endswith("images/s") for note in notes if note)
