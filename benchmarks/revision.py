"""Which revision of the code measured a row."""

from __future__ import annotations

import subprocess
from pathlib import Path


def revision() -> str:
    """Give the short name of the commit that is checked out; ``unknown`` outside a repository."""
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return found.stdout.strip() or "unknown"
