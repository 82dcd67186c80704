"""EDP in two processes: one plan, one network, and the accuracy of one process."""

import os
import subprocess
import sys
from pathlib import Path

import flow_edp_together
import pytest
import torch


def test_two_processes_learn_one_network(tmp_path: Path) -> None:
    original = flow_edp_together.original()
    torch.save(original.state_dict(), tmp_path / "original.pt")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ended = subprocess.run(
        [*command, flow_edp_together.__file__, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert first == second
    alone = flow_edp_together.compressed(original, 1)
    assert alone["accuracy"] > 0.95
    assert first["accuracy"] == pytest.approx(alone["accuracy"], abs=0.005)
    assert abs(first["macs"] - alone["macs"]) < 0.05 * alone["macs"]
