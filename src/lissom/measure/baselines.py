"""Other ways to store a network, measured beside the packed file."""

from __future__ import annotations

import lzma
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from lissom.export.quiet import quiet

Levels = NDArray[np.int32]


def lzma_bytes(content: bytes) -> int:
    """Give the bytes of a file after LZMA, preset 9."""
    return len(lzma.compress(content, preset=9))


def int8_onnx_bytes(path: Path) -> int | None:
    """Give the bytes of an ONNX file whose weights ONNX Runtime has made int8.

    Only the size is of interest: what that costs in accuracy is not measured.

    Args:
        path: The file in float32.

    Returns:
        None where ONNX Runtime can't do it.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(path)
    del model.graph.value_info[:]  # shapes as torch notes them stop its shape inference
    with tempfile.TemporaryDirectory(prefix="lissom-int8-") as folder, quiet():
        small = Path(folder) / "int8.onnx"
        try:
            quantize_dynamic(model, small, weight_type=QuantType.QInt8)
        except Exception:  # of a tool that may refuse any network; nothing rests on it
            return None
        return small.stat().st_size


def nncodec_bytes(tensors: Sequence[Levels]) -> int | None:
    """Give the bytes of levels after nncodec (ISO/IEC 15938-17), the best of its settings each.

    Args:
        tensors: Of any shape with at least one axis.

    Returns:
        None where nncodec is not installed.
    """
    try:
        coder: Any = import_module("nncodec.extensions.deepCABAC")
    except Exception:  # not there, or made for another numpy
        return None
    total = 0
    for levels in tensors:
        flat = np.ascontiguousarray(levels.reshape(len(levels), -1))
        forms = [(flat, scan) for scan in (0, 1, 2)] + [(np.ascontiguousarray(levels), 0)]
        total += min(
            _nncodec_size(coder, form, choice, scan) for form, scan in forms for choice in (0, 1)
        )
    return total


def _nncodec_size(coder: Any, levels: Levels, choice: int, scan: int) -> int:
    encoder = coder.Encoder()
    encoder.initCtxModels(11, choice)
    skipped = np.zeros(len(levels), np.int32)
    row_skipping = (coder.HdspMode.AlwaysOff, np.zeros(2, np.int8))
    encoder.encodeLayer(levels, 0, scan, 0, 0, 0, skipped, *row_skipping, 0, 0)
    return len(encoder.finish().tobytes())
