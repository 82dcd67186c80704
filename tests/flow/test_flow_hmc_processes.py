"""HMC in two processes: each measures its share, and all decide what one alone would."""

import json
from pathlib import Path

import flow_hmc_together
from flow_torchrun import run_in_two_processes


def test_two_processes_share_the_measuring_and_decide_alike(tmp_path: Path) -> None:
    run_in_two_processes(flow_hmc_together.__file__, str(tmp_path))
    notes = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    firsts = [note["first"] for note in notes]
    alone = json.loads(json.dumps(flow_hmc_together.decided(None)))
    assert firsts[0]["plan"] == firsts[1]["plan"] == alone["plan"]
    assert firsts[0]["values"] == firsts[1]["values"]
    assert firsts[0]["curves"] == firsts[1]["curves"]
    shares = [first["measured"] for first in firsts]
    assert sum(shares) == alone["measured"]
    assert 0 <= shares[0] - shares[1] <= 14  # the first measures whole networks, too
    assert firsts[0]["forwards"]["naive"] == alone["forwards"]["naive"]
    # What was measured is kept: nothing is run again, and one process wrote the file.
    assert [note["again"]["measured"] for note in notes] == [0, 0]
    assert len(list((tmp_path / "cache").glob("*.json"))) == 1
    # The first process's candidate is broken; the other must not wait for it.
    assert all("u: with 50% removed" in note["error"] for note in notes)
