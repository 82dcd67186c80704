import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lissom.errors import RecipeError
from lissom.task import Classification
from lissom.train.checkpoint import Checkpoint
from lissom.train.loop import train
from lissom.train.settings import TrainSettings

TASK = Classification()
SETTINGS = TrainSettings(epochs=3, learning_rate=0.05, precision="32")


def tensors(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a) and a.keys() == b.keys()


class KilledError(Exception):
    pass


class Mortal:
    """A loader that ends the world in the middle of an epoch."""

    def __init__(self, inner, epoch):
        self._inner, self._epoch, self.epoch = inner, epoch, 0

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def __len__(self):
        return len(self._inner)

    def set_epoch(self, epoch):
        self.epoch = epoch
        self._inner.set_epoch(epoch)

    def __iter__(self):
        for i, batch in enumerate(self._inner):
            if self.epoch == self._epoch and i == 1:
                raise KilledError
            yield batch


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"optimizer": "adamw"},
        {"channels_last": "no"},
        {"teacher_views": 2},
        {"precision": "bf16"},
    ],
    ids=lambda change: next(iter(change), "default"),
)
def test_a_killed_run_resumes_bit_for_bit(data, network, tmp_path, change):
    settings = replace(SETTINGS, epochs=4, **change)
    whole, broken, resumed = network(), network(), network(seed=5)
    teacher = network(seed=1)
    expected = train(whole, data, TASK, settings, teacher=teacher)

    checkpoint = Checkpoint(tmp_path)
    dying = replace(data, train=Mortal(data.train, epoch=2))
    with pytest.raises(KilledError):
        train(broken, dying, TASK, settings, teacher=teacher, checkpoint=checkpoint)
    history = train(resumed, data, TASK, settings, teacher=teacher, checkpoint=checkpoint)

    assert same(tensors(whole), tensors(resumed))
    assert [e.loss for e in history.epochs] == [e.loss for e in expected.epochs]

    finished = network(seed=6)
    train(finished, data, TASK, settings, teacher=teacher, checkpoint=checkpoint)
    assert same(tensors(whole), tensors(finished))


def test_ordinary_loaders_resume_bit_for_bit_too(network, data, tmp_path):
    images = torch.cat([x for x, _ in data.train])
    targets = torch.cat([y for _, y in data.train])
    plain = DataLoader(TensorDataset(images, targets), batch_size=16, shuffle=True)
    data = replace(data, train=plain)
    whole, broken, resumed = network(), network(), network()
    train(whole, data, TASK, SETTINGS)
    checkpoint = Checkpoint(tmp_path)

    class Dying(Classification):
        steps = 0

        def loss(self, outputs, batch):
            Dying.steps += 1
            if Dying.steps == 6:
                raise KilledError
            return super().loss(outputs, batch)

    with pytest.raises(KilledError):
        train(broken, data, Dying(), SETTINGS, checkpoint=checkpoint)
    train(resumed, data, TASK, SETTINGS, checkpoint=checkpoint)
    assert same(tensors(whole), tensors(resumed))


@pytest.mark.parametrize(
    ("settings", "fingerprint", "message"),
    [
        (replace(SETTINGS, epochs=5), "recipe", "epochs was 3, is 5"),
        (SETTINGS, "another", 'fingerprint was "recipe", is "another"'),
    ],
)
def test_a_changed_recipe_is_refused(data, network, tmp_path, settings, fingerprint, message):
    train(network(), data, TASK, SETTINGS, checkpoint=Checkpoint(tmp_path, "recipe"))
    model = network()
    before = tensors(model)
    with pytest.raises(RecipeError, match=message):
        train(model, data, TASK, settings, checkpoint=Checkpoint(tmp_path, fingerprint))
    assert same(before, tensors(model))


def test_another_network_is_refused(data, network, tmp_path):
    train(network(), data, TASK, SETTINGS, checkpoint=Checkpoint(tmp_path))
    other = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    with pytest.raises(RecipeError, match="network"):
        train(other, data, TASK, SETTINGS, checkpoint=Checkpoint(tmp_path))


# A test run in the background ignores SIGINT, and its children with it: the script listens again.
SCRIPT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
import torch
from torch import nn
from lissom.task import Classification, Data
from lissom.train.checkpoint import Checkpoint
from lissom.train.loop import train
from lissom.train.settings import TrainSettings
class Slow:
    def __len__(self): return 3
    def __iter__(self):
        for i in range(3):
            time.sleep(0.01)
            yield torch.ones(4, 2), torch.tensor([0, 1, 0, 1])
data = Data(Slow(), (), (), ())
settings = TrainSettings(epochs=100000, device="cpu", precision="32")
print("go", flush=True)
train(nn.Linear(2, 2), data, Classification(), settings, checkpoint=Checkpoint(Path(sys.argv[1])))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_leaves_a_usable_checkpoint(tmp_path, number):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    checkpoint = Checkpoint(tmp_path)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as run:
        run.stdout.readline()
        try:
            while not checkpoint.path.exists() and run.poll() is None:
                time.sleep(0.01)
            run.send_signal(number)
            run.wait(timeout=60)
        finally:
            run.kill()
    assert run.returncode != 0
    with pytest.raises(RecipeError) as refused:
        checkpoint.load({})  # whole: it can say what it is
    assert "epochs was 100000" in str(refused.value)
