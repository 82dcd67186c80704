import errno
import json
import os

import pytest
import torch

from lissom.errors import LissomError, RecipeError, WeightsError
from lissom.train.checkpoint import Checkpoint, Snapshot

SNAPSHOT = Snapshot({"a": torch.arange(6.0).view(2, 3).t()}, {"epochs": [{"loss": 0.1}]})


def test_nothing_there_yet(tmp_path):
    assert Checkpoint(tmp_path / "new").load({}) is None


def test_round_trip(tmp_path):
    checkpoint = Checkpoint(tmp_path / "new" / "folder", "any text")
    checkpoint.save(SNAPSHOT, {"epochs": 3})
    loaded = checkpoint.load({"epochs": 3})
    assert torch.equal(loaded.tensors["a"], SNAPSHOT.tensors["a"])
    assert loaded.facts == SNAPSHOT.facts
    assert [path.name for path in checkpoint.folder.iterdir()] == ["train.safetensors"]


@pytest.mark.parametrize(
    ("fingerprint", "settings", "message"),
    [
        ('{"budget": "macs=0.5"}', {"epochs": 5}, "epochs was 3, is 5; repeat"),
        ('{"budget": "macs=0.4"}', {"epochs": 3}, 'budget was "macs=0.5", is "macs=0.4"'),
        ('{"budget": "macs=0.5", "x": 1}', {"epochs": 3}, "x was null, is 1"),
        ("text", {"epochs": 3}, 'fingerprint was null, is "text"'),
    ],
)
def test_another_run_is_refused_and_the_difference_named(tmp_path, fingerprint, settings, message):
    Checkpoint(tmp_path, '{"budget": "macs=0.5"}').save(SNAPSHOT, {"epochs": 3})
    with pytest.raises(RecipeError, match=message):
        Checkpoint(tmp_path, fingerprint).load(settings)


def test_order_of_a_json_fingerprint_does_not_matter(tmp_path):
    Checkpoint(tmp_path, '{"a": 1, "b": 2}').save(SNAPSHOT, {})
    assert Checkpoint(tmp_path, json.dumps({"b": 2, "a": 1})).load({}) is not None


@pytest.mark.parametrize("content", [b"", b"junk" * 100, None])
def test_damaged_file(tmp_path, content):
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save(SNAPSHOT, {})
    whole = checkpoint.path.read_bytes()
    checkpoint.path.write_bytes(whole[:-5] if content is None else content)
    with pytest.raises(WeightsError, match=r"train\.safetensors: damaged or not"):
        checkpoint.load({})


def test_a_full_disk_leaves_the_old_state_and_no_rest(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save(SNAPSHOT, {})
    before = checkpoint.path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LissomError, match=r"No space left on device.*free some space"):
        checkpoint.save(Snapshot({"a": torch.zeros(9)}, {}), {})
    assert checkpoint.path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [checkpoint.path]
