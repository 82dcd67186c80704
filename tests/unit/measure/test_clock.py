"""The clock of a runtime, asked about files and about float32 beside int8."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lissom.errors import MeasureError
from lissom.export.onnx import onnx_content
from lissom.measure.clock import RuntimeClock
from lissom.measure.guessed_int8 import GuessedInt8
from lissom.measure.latency import Conditions

INPUTS = (torch.randn(1, 3, 24, 24),)
QUICK = Conditions(runs=20, warmup=2)


def content(depth: int) -> bytes:
    layers = (nn.Conv2d(3 if place == 0 else 32, 32, 3, padding=1) for place in range(depth))
    return onnx_content(nn.Sequential(*layers).eval(), INPUTS)[0]


def test_files_are_compared_in_turn() -> None:
    clock = RuntimeClock(QUICK, INPUTS)
    one, many = content(1), content(8)
    assert clock.file_ratio(many, one).median > 1 > clock.file_ratio(one, many).median


def test_torch_runs_no_files() -> None:
    clock = RuntimeClock(Conditions(runtime="torch", runs=2), INPUTS)
    with pytest.raises(MeasureError, match="torch can't run"):
        clock.file_ratio(content(1), content(1))


def test_beside_int8_there_is_a_clock_for_float32() -> None:
    plain = RuntimeClock(QUICK, INPUTS)
    assert plain.plain is plain
    clock = RuntimeClock(QUICK, INPUTS, int8=GuessedInt8())
    labels = [one.times._runtime.label for one in (plain, clock.plain, clock)]
    assert labels[:2] == [plain.times._runtime.label] * 2
    assert labels[2] == f"{labels[0]} int8"
    assert clock.plain.conditions == clock.conditions
