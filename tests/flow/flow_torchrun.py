"""Starts a script in two processes, as a user's torchrun does."""

import os
import subprocess
import sys


def run_in_two_processes(script: str, *arguments: str) -> None:
    """Run a file under torchrun, and expect both processes to end well."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ended = subprocess.run(
        [*command, script, *arguments],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
