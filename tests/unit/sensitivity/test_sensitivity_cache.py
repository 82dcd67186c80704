import json
from threading import Barrier, Thread

import pytest
import torch
from torch import nn

from lissom.errors import LissomError
from lissom.sensitivity.cache import HarmCache, content_hash, fingerprint


def test_fingerprint_follows_weights_buffers_and_facts():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    before = fingerprint(model, {"images": 8})
    assert before == fingerprint(model, {"images": 8})
    assert before != fingerprint(model, {"images": 9})
    model[1].running_mean[0] += 1
    assert before != fingerprint(model, {"images": 8})


def test_content_hash_follows_names_and_values():
    one = torch.ones(2)
    assert content_hash({"a": one}) == content_hash({"a": one.clone()})
    assert content_hash({"a": one}) != content_hash({"b": one})
    assert content_hash({"a": one}) != content_hash({"a": -one})
    assert content_hash({"a": torch.ones(2, 0)})


def test_harms_come_back_and_nothing_temporary_stays(tmp_path):
    store = HarmCache(tmp_path / "new", "k")
    store.harms["u|prune"] = [0.25, 0.5]
    store.save()
    assert HarmCache(tmp_path / "new", "k").harms == {"u|prune": [0.25, 0.5]}
    assert HarmCache(tmp_path / "new", "other").harms == {}
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == ["harms-k.json", "harms-k.lock"]


def test_what_others_wrote_meanwhile_stays(tmp_path):
    one, other = HarmCache(tmp_path, "k"), HarmCache(tmp_path, "k")
    one.harms |= {"a": [0.1], "both": [0.2]}
    one.save()
    other.harms |= {"b": [0.3], "both": [0.2, 0.4]}
    other.save()
    assert HarmCache(tmp_path, "k").harms == {"a": [0.1], "b": [0.3], "both": [0.2, 0.4]}
    one.harms["c"] = [0.5]
    one.save()
    assert one.harms["both"] == [0.2, 0.4]  # of what both measured, who measured more


def _keeps(folder, name, start):
    store = HarmCache(folder, "k")
    start.wait()
    for number in range(40):
        store.harms[f"{name}.{number}"] = [0.1] * 200
        store.save()


def test_runs_that_write_at_once_lose_nothing(tmp_path):
    """Threads have handles of their own, as processes do."""
    start = Barrier(3)
    runs = [Thread(target=_keeps, args=(tmp_path, name, start)) for name in "abc"]
    for run in runs:
        run.start()
    damaged = 0
    while any(run.is_alive() for run in runs):
        path = tmp_path / "harms-k.json"
        if path.exists():
            try:
                json.loads(path.read_text())
            except ValueError:
                damaged += 1
    assert damaged == 0
    assert len(HarmCache(tmp_path, "k").harms) == 120


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = HarmCache(None, "k")
    store.harms["u"] = [1.0]
    store.save()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [b'{"u": [0.5', b"[1.0]", b'{"u": 3}', b'{"u": ["x"]}', b"\xff\xfe", b""],
    ids=["cut short", "list", "number", "text", "not text", "empty"],
)
def test_a_damaged_file_counts_as_empty(tmp_path, content):
    (tmp_path / "harms-k.json").write_bytes(content)
    assert HarmCache(tmp_path, "k").harms == {}


def test_of_a_partly_damaged_file_the_sound_entries_count(tmp_path):
    (tmp_path / "harms-k.json").write_text('{"u": [0.5], "v": null}')
    assert HarmCache(tmp_path, "k").harms == {"u": [0.5]}


def test_a_folder_that_cant_be_written_is_named_with_a_way_out(tmp_path):
    occupied = tmp_path / "file"
    occupied.write_text("not a folder")
    with pytest.raises(LissomError, match=r"file.*LISSOM_CACHE"):
        HarmCache(occupied, "key").save()
