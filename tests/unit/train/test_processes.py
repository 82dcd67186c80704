import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import trained_together
from torch import nn

from lissom.errors import RecipeError
from lissom.train.processes import Processes, world_size
from lissom.train.settings import TrainSettings

SCRIPT = Path(trained_together.__file__)


def torchrun(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script in two processes on this machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.run(
        [*command, str(SCRIPT), str(folder), *arguments],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What two processes got."""
    folder = tmp_path_factory.mktemp("together")
    ended = torchrun(folder)
    assert ended.returncode == 0, ended.stderr
    assert "Warning" not in ended.stderr
    threads = [path.read_text() for path in sorted(folder.glob("*.threads"))]
    return [{**torch.load(folder / f"{rank}.pt"), "threads": threads} for rank in range(2)]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_both_end_with_the_same_bits(both):
    first, second = both
    assert same(first["with norms"]["tensors"], second["with norms"]["tensors"])
    assert first["with norms"]["losses"] == second["with norms"]["losses"]
    for name in ("in memory", "ordinary"):
        assert same(first["without"][name]["tensors"], second["without"][name]["tensors"])
    assert same(first["equalized"], second["equalized"])


def test_batch_norms_cost_less_than_half_a_point(both):
    alone = trained_together.with_norms(trained_together.digits())
    together = both[0]["with norms"]
    assert alone["accuracy"] > 0.9
    assert together["accuracy"] == pytest.approx(alone["accuracy"], abs=0.005)
    for ours, theirs in zip(together["losses"], alone["losses"], strict=True):
        assert ours[0] == pytest.approx(theirs[0], rel=0.1)
        assert ours[1:] == theirs[1:]


def test_without_batch_norms_it_is_one_process_up_to_rounding(both):
    alone = trained_together.without_norms(trained_together.digits())
    for name, together in both[0]["without"].items():
        for key, tensor in alone[name]["tensors"].items():
            # Sums in another order, over some 30 steps that amplify them.
            torch.testing.assert_close(together["tensors"][key], tensor, rtol=1e-3, atol=1e-4)
        ours, theirs = ([loss for loss, *_ in one["losses"]] for one in (together, alone[name]))
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert not same(both[0]["without"]["ordinary"]["tensors"], alone["in memory"]["tensors"])


def test_an_interrupted_training_resumes_bit_for_bit(both):
    for own in both:
        assert same(own["with norms"]["resumed"]["tensors"], own["with norms"]["tensors"])
        assert own["with norms"]["resumed"]["losses"] == own["with norms"]["losses"]


def test_what_the_first_makes_or_refuses_all_get(both):
    assert [own["made"] for own in both] == [{"by": 0}] * 2
    assert [own["refused"] for own in both] == ["said by the first"] * 2


def test_running_statistics_are_averaged_by_images(both):
    assert [own["averaged"] for own in both] == [[1.75, 1.0], [1.75, 2.0]]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="Linux counts threads there")
def test_no_thread_of_the_group_is_left_when_python_ends(both):
    # One that lets go of a tensor too late aborts the process now and then.
    assert both[0]["threads"] == ["1", "1"]


def test_one_that_dies_ends_the_others(tmp_path):
    ended = torchrun(tmp_path, "--fail")
    assert ended.returncode != 0
    assert "this process dies" in ended.stderr


def test_alone_nothing_is_exchanged():
    alone = Processes.here()
    assert (alone, alone.first) == (Processes(0, 1), True)
    loss = torch.tensor(2.0, requires_grad=True)
    weighed = alone.weigh(loss, 7)
    assert weighed.here is loss
    assert (float(weighed.mean), weighed.images, weighed.part) == (2.0, 7, None)
    model = nn.BatchNorm2d(2).train()
    alone.average_statistics(model, weighed.part)
    alone.equalize(model)
    assert torch.equal(model.running_mean, torch.zeros(2))
    assert alone.from_first(lambda: 3) == 3


def test_torchrun_says_how_many_there_are(monkeypatch):
    assert world_size(TrainSettings(devices=3)) == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert world_size(TrainSettings()) == 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"devices": 0}, "devices=0: expected 1 or more"),
        ({"strategy": "fsdp"}, "strategy='fsdp': expected one of auto, ddp, ddp_find"),
        ({"devices": 2, "device": "cuda:1"}, "devices=2, device='cuda:1': .*a kind: device=cuda"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(RecipeError, match=message):
        TrainSettings(**settings)
