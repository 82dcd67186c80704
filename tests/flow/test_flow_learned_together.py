"""Methods that train in two processes: one plan, one network, and the accuracy of one process."""

from pathlib import Path

import flow_learned_together
import pytest
import torch
from flow_torchrun import run_in_two_processes
from torch import nn


@pytest.fixture(scope="module")
def original() -> nn.Module:
    return flow_learned_together.original()


@pytest.mark.parametrize("method", ["edp", "ajc", pytest.param("int8", marks=pytest.mark.slow)])
def test_two_processes_learn_one_network(original: nn.Module, method: str, tmp_path: Path) -> None:
    torch.save(original.state_dict(), tmp_path / "original.pt")
    run_in_two_processes(flow_learned_together.__file__, method, str(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert first == second
    alone = flow_learned_together.compressed(original, method, 1)
    assert alone["accuracy"] > 0.95
    # Another order of the images, of which 540 are judged on: a half point is less than three.
    close = 0.005 if method == "edp" else 0.01
    assert first["accuracy"] == pytest.approx(alone["accuracy"], abs=close)
    assert abs(first["macs"] - alone["macs"]) <= 0.05 * alone["macs"]
    assert abs(first["bytes"] - alone["bytes"]) < 0.05 * alone["bytes"]
