"""The command line, as its console script starts it; every process notes what it would write."""

import hashlib
import os
import sys
from pathlib import Path

import torch

from lissom.artifacts import weights_content
from lissom.cli.app import run
from lissom.pipeline.result import Result


def noting(result: Result, out: Path, recipe: str | None = None) -> None:
    """Note plan and weights beside the folder, then save."""
    parts = (result.plan.to_json().encode(), weights_content(result.model), result.onnx)
    lines = [hashlib.sha256(part).hexdigest() for part in parts]
    number = os.environ["LOCAL_RANK"]
    out.with_name(f"process{number}.txt").write_text("\n".join(lines))
    save(result, out, recipe)


if __name__ == "__main__":
    torch.set_num_threads(1)
    save, Result.save = Result.save, noting
    sys.exit(run(sys.argv[1:]))
