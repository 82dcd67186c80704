"""EDP and AJC in two processes: one plan, one network, and the accuracy of one process."""

import os
import subprocess
import sys
from pathlib import Path

import flow_learned_together
import pytest
import torch
from torch import nn


@pytest.fixture(scope="module")
def original() -> nn.Module:
    return flow_learned_together.original()


@pytest.mark.parametrize("method", ["edp", "ajc"])
def test_two_processes_learn_one_network(original: nn.Module, method: str, tmp_path: Path) -> None:
    torch.save(original.state_dict(), tmp_path / "original.pt")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ended = subprocess.run(
        [*command, flow_learned_together.__file__, method, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert first == second
    alone = flow_learned_together.compressed(original, method, 1)
    assert alone["accuracy"] > 0.95
    assert first["accuracy"] == pytest.approx(alone["accuracy"], abs=0.005)
    assert abs(first["macs"] - alone["macs"]) <= 0.05 * alone["macs"]
    assert abs(first["bytes"] - alone["bytes"]) < 0.05 * alone["bytes"]
