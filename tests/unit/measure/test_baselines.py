from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from lissom.export.onnx import export_onnx
from lissom.measure.baselines import int8_onnx_bytes, lzma_bytes, nncodec_bytes


def test_lzma_finds_what_repeats_and_nothing_else() -> None:
    noise = np.random.default_rng(0).bytes(4096)
    assert lzma_bytes(bytes(4096)) < 100
    assert 4096 <= lzma_bytes(noise) < 4300
    assert lzma_bytes(noise + noise) < 4400


def test_int8_takes_about_a_byte_per_weight(tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 500)
    ).eval()
    path = tmp_path / "net.onnx"
    export_onnx(model, (torch.zeros(1, 3, 8, 8),), path)
    handlers = list(logging.getLogger().handlers)
    size = int8_onnx_bytes(path)
    assert logging.getLogger().handlers == handlers
    assert logging.getLogger().manager.disable == 0
    weights = 3 * 64 * 9 + 64 * 500
    assert size is not None
    assert weights < size < weights + 12_000 < path.stat().st_size


def test_a_file_that_can_not_be_quantized_has_no_size(tmp_path: Path) -> None:
    path = tmp_path / "empty.onnx"
    onnx.save(onnx.ModelProto(), path)
    assert int8_onnx_bytes(path) is None


def test_nncodec_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncodec", None)
    assert nncodec_bytes([np.ones((2, 2), np.int32)]) is None


class Encoder:
    """Takes as many bytes as its settings say, and notes what it was given."""

    seen: ClassVar[list[tuple[tuple[int, ...], int, int]]] = []

    def initCtxModels(self, _bits: int, choice: int) -> None:  # noqa: N802
        self.choice = choice

    def encodeLayer(self, levels: np.ndarray, _first: int, scan: int, *_rest: Any) -> None:  # noqa: N802
        self.size = 10 + 4 * scan - self.choice - levels.ndim
        self.seen.append((levels.shape, self.choice, scan))

    def finish(self) -> np.ndarray:
        return np.zeros(self.size, np.uint8)


def test_the_best_of_nncodecs_settings_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    coder: Any = ModuleType("deepCABAC")
    coder.Encoder, coder.HdspMode = Encoder, SimpleNamespace(AlwaysOff=0)
    for name in ("nncodec", "nncodec.extensions"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "nncodec.extensions.deepCABAC", coder)
    assert nncodec_bytes([np.ones((2, 3, 1, 1), np.int32), np.ones((4, 5), np.int32)]) == 5 + 7
    assert {seen for seen in Encoder.seen if len(seen[0]) == 4} == {
        ((2, 3, 1, 1), choice, 0) for choice in (0, 1)
    }
    assert {seen for seen in Encoder.seen if seen[0] == (2, 3)} == {
        ((2, 3), choice, scan) for choice in (0, 1) for scan in (0, 1, 2)
    }
