"""Run by torchrun: trains small networks in every process, and notes what each one got.

Arguments: a folder for the notes; with ``--fail``, the second process dies on the way.
"""

import atexit
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lissom.data.load import load_data
from lissom.errors import RecipeError
from lissom.task import Classification
from lissom.train.checkpoint import Checkpoint
from lissom.train.evaluate import evaluate
from lissom.train.loop import train
from lissom.train.processes import Processes, join
from lissom.train.settings import TrainSettings

TASK = Classification()
SETTINGS = TrainSettings(
    epochs=5, learning_rate=0.1, warmup_steps=10, ema=0.95, device="cpu", precision="32"
)
SHORT = replace(SETTINGS, epochs=2, clip_norm=1.0)


class Interrupted(Exception):  # noqa: N818  (it is no error)
    pass


class Shrinking:
    """A companion with a penalty, edits, and a state of its own."""

    def __init__(self, model, until=-1):
        self.weight, self.factor, self.until = model[0].weight, torch.tensor(1.0), until

    def learns(self):
        return ()

    def without_decay(self):
        return (self.weight,)

    def penalty(self):
        return 0.01 * self.weight.square().sum()

    @torch.no_grad()
    def after_step(self, step):
        if step.step == self.until:
            raise Interrupted
        self.factor *= 0.9999
        self.weight *= self.factor

    def after_average(self):
        pass

    def status(self):
        return ""

    def scalars(self):
        return {"factor": float(self.factor)}

    def state_dict(self):
        return {"factor": self.factor}

    def load_state_dict(self, state):
        self.factor = state["factor"].clone()


def network(*, normed):
    """A small network, by chance another one in each process."""
    norm = nn.BatchNorm2d(12) if normed else nn.Identity()
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), norm, nn.ReLU(), nn.Conv2d(12, 16, 3, stride=2),
        nn.ReLU(), nn.Flatten(), nn.Linear(144, 10),
    )  # fmt: skip


def equal(*, normed):
    """The same small network in each process."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return network(normed=normed)


def digits():
    return load_data("digits").data


def ordinary(data):
    """An ordinary loader of uneven batches, the last too small to be divided."""
    images = torch.cat([x for x, _ in data.held_out])[:129]
    targets = torch.cat([y for _, y in data.held_out])[:129]
    return DataLoader(TensorDataset(images, targets), batch_size=9, shuffle=True)


def noted(model, history):
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses = [(record.loss, record.images, dict(record.scalars)) for record in history.epochs]
    return {"tensors": tensors, "losses": losses}


def accuracy(model, data):
    """Over all images that were not trained on."""
    both = [*data.held_out, *data.test]
    return evaluate(model, both, TASK, device="cpu")


def with_norms(data, folder=None):
    model = equal(normed=True)
    history = train(model, data, TASK, SETTINGS, companion=Shrinking(model))
    found = {**noted(model, history), "accuracy": accuracy(model, data)}
    if folder is not None:
        broken, resumed = equal(normed=True), network(normed=True)
        checkpoint = Checkpoint(folder / "training")
        try:
            train(
                broken, data, TASK, SETTINGS,
                checkpoint=checkpoint, companion=Shrinking(broken, until=25),
            )  # fmt: skip
        except Interrupted:
            Processes.here().from_first(lambda: None)  # the checkpoint is whole for all
        again = train(
            resumed, data, TASK, SETTINGS, checkpoint=checkpoint, companion=Shrinking(resumed)
        )
        found["resumed"] = noted(resumed, again)
    return found


def without_norms(data):
    found = {}
    for name, loader in (("in memory", data.train), ("ordinary", ordinary(data))):
        model, given = equal(normed=False), replace(data, train=loader)
        history = train(
            model, given, TASK, SHORT, teacher=equal(normed=False), companion=Shrinking(model)
        )
        found[name] = noted(model, history)
    return found


def refused():
    try:
        Processes.here().from_first(lambda: (_ for _ in ()).throw(RecipeError("said by the first")))
    except RecipeError as error:
        return str(error)
    return ""


def averaged(rank):
    norm = nn.BatchNorm1d(2).train()
    norm.running_mean.fill_(1.0 + rank)
    frozen = nn.BatchNorm1d(2).eval()
    frozen.running_mean.fill_(1.0 + rank)
    both = nn.ModuleList([norm, frozen])
    Processes.here().average_statistics(both, torch.tensor([0.25, 0.75])[rank])
    return [float(one.running_mean[0]) for one in both]


def note_threads(folder):
    """Note, as the very last, how many threads there still are."""
    own = Path("/proc/self/task")
    if own.exists():
        (folder / f"{os.environ['RANK']}.threads").write_text(str(len(list(own.iterdir()))))


def main(folder):
    atexit.register(note_threads, folder)
    processes = join(SETTINGS)
    data = digits()
    if "--fail" in sys.argv:
        if processes.rank == 1:
            raise SystemExit("this process dies")
        with_norms(data)
        return
    given = network(normed=True)
    processes.equalize(given)
    own = {
        "with norms": with_norms(data, folder),
        "without": without_norms(data),
        "refused": refused(),
        "made": processes.from_first(lambda: {"by": processes.rank}),
        "averaged": averaged(processes.rank),
        "equalized": given.state_dict(),
    }
    torch.save(own, folder / f"{processes.rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(int(os.environ.get("RANK", "0")))
    main(Path(sys.argv[1]))
