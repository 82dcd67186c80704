"""What the tests of the whole flow share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lissom.pipeline.result import Result
from lissom.recipe.recipe import Recipe

# Few images and one point per curve: the flow is under test here, not the quality of the decisions.
SMALL = """
model: {name: lissom:digits_resnet, weights: WEIGHTS}
data: {name: digits, calibration_images: 256}
stages: [{method: hmc, images: 128, statistics_images: 256, fractions: [0.5], rounds: 1}]
budget: {macs: 0.6}
allow_slower: true
recover: {epochs: 2, learning_rate: 0.05, warmup_steps: 2, recalibration_images: 256}
seed: 3
"""


@dataclass(frozen=True)
class Finished:
    """A run that has ended."""

    recipe: Recipe
    out: Path
    result: Result
    said: list[str]


def assert_columns_add_up(report: dict[str, Any]) -> None:
    """Check that the rows of the layers add up to the totals of the networks."""
    for side, column in (("original", "before"), ("compressed", "after")):
        for quantity in ("params", "macs"):
            total = sum(row[column][quantity] for row in report["layers"])
            assert total == report[side][quantity], (side, quantity)
