import csv
import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from lightning_fabric.loggers import tensorboard
from lightning_fabric.loggers.csv_logs import CSVLogger
from tensorboardX.proto.event_pb2 import Event

from lissom.errors import LissomError, RecipeError
from lissom.task import Classification
from lissom.train.checkpoint import Checkpoint
from lissom.train.history import EpochRecord
from lissom.train.log import TrainingLog
from lissom.train.loop import train
from lissom.train.settings import TrainSettings

TASK = Classification()
SETTINGS = TrainSettings(epochs=3, learning_rate=0.05, precision="32", device="cpu")
RECORDS = [EpochRecord(number, 1.5 - number, 0.1, 200, 2.0, {"rows": 7.0}) for number in range(3)]


def rows(folder: Path):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def events(folder: Path):
    """Read the (step, tag, value) of an event file: length, two checksums, message."""
    (path,) = folder.glob("events.out.tfevents.*")
    content, found = path.read_bytes(), []
    while content:
        length = int.from_bytes(content[:8], "little")
        event = Event.FromString(content[12 : 12 + length])
        found += [(event.step, one.tag, one.simple_value) for one in event.summary.value]
        content = content[16 + length :]
    return found


def test_a_row_per_epoch(tmp_path):
    log = TrainingLog(("csv", "tensorboard"), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    log.write(RECORDS[:1])
    log.write(RECORDS)
    found = rows(tmp_path / "new")
    assert [float(row["loss"]) for row in found] == [1.5, 0.5, -0.5]
    assert [row["step"] for row in found] == ["0", "1", "2"]
    assert {(row["learning_rate"], row["images_per_second"], row["rows"]) for row in found} == {
        ("0.1", "100.0", "7.0")
    }
    log.close()
    losses = [(step, value) for step, tag, value in events(tmp_path / "new") if tag == "loss"]
    assert losses == [(0, 1.5), (1, 0.5), (2, -0.5)]


def test_nothing_is_written_unasked(tmp_path):
    log = TrainingLog((), None)
    log.write(RECORDS)
    log.close()
    TrainingLog((), tmp_path).write(RECORDS)
    assert list(tmp_path.iterdir()) == []


def test_what_a_resumed_training_repeats_stands_there_once(tmp_path, data, network):
    class KilledError(Exception):
        pass

    class Dying(Classification):
        steps = 0

        def loss(self, outputs, batch):
            Dying.steps += 1
            if Dying.steps == 10:
                raise KilledError
            return super().loss(outputs, batch)

    settings, logs = replace(SETTINGS, log="csv,tensorboard"), tmp_path / "logs"
    checkpoint = Checkpoint(tmp_path / "state")
    with pytest.raises(KilledError):
        train(network(), data, Dying(), settings, checkpoint=checkpoint, logs=logs)
    assert len(rows(logs)) == 2
    history = train(network(), data, TASK, settings, checkpoint=checkpoint, logs=logs)
    assert [float(row["loss"]) for row in rows(logs)] == [record.loss for record in history.epochs]
    assert [step for step, tag, _ in events(logs) if tag == "loss"] == [0, 1, 2]


def test_a_log_changes_no_weight(tmp_path, data, network):
    plain, logged = network(), network()
    train(plain, data, TASK, SETTINGS)
    train(logged, data, TASK, replace(SETTINGS, log="csv"), logs=tmp_path)
    assert str(plain.state_dict()) == str(logged.state_dict())


def test_a_log_needs_a_folder(data, network):
    with pytest.raises(RecipeError, match=r"log=csv: there is no folder.*Settings\(logs="):
        train(network(), data, TASK, replace(SETTINGS, log="csv"))


def test_tensorboard_need_not_be_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard, "_TENSORBOARD_AVAILABLE", False)
    monkeypatch.setattr(tensorboard, "_TENSORBOARDX_AVAILABLE", False)
    TrainingLog(("csv",), tmp_path)
    with pytest.raises(RecipeError, match=r"pip install 'lissom\[tensorboard\]', or log=csv"):
        TrainingLog(("tensorboard",), tmp_path)


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(CSVLogger, "save", full)
    with pytest.raises(LissomError, match=r"the log can't be written \(No space left"):
        TrainingLog(("csv",), tmp_path).write(RECORDS)


@pytest.mark.parametrize(
    ("log", "kinds"),
    [("", ()), ("csv", ("csv",)), ("csv, tensorboard,csv", ("csv", "tensorboard"))],
)
def test_kinds(log, kinds):
    assert TrainSettings(log=log).logs == kinds


@pytest.mark.parametrize("log", ["cvs", "csv,wandb", "csv tensorboard"])
def test_other_kinds_are_refused(log):
    with pytest.raises(RecipeError, match="expected csv, tensorboard, or both"):
        TrainSettings(log=log)
