"""What the packed file takes, as rows of a table that every view shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lissom.report import figures

NOTE = (
    "Only the file is claimed; the other ratios leave something out and are there to compare with "
    "papers."
)
_RATIOS = {
    "r1_no_index": "R1: weights, places not counted",
    "r2_relative_index": "R2: weights and run lengths",
    "r3_entropy_bound": "R3: entropy of each layer's levels",
    "r4_file": "R4: the file itself, all in it",
}
_KINDS = {
    "levels": "levels",
    "scales": "scales",
    "plain_weights": "weights that are not quantized",
    "norms_and_biases": "batch norms and biases",
    "header_and_plan": "header and plan",
}
_BASELINES = {
    "original_lzma": "original as float32, LZMA",
    "original_int8_onnx": "original as int8 ONNX",
    "levels_nncodec": "the same levels, nncodec",
}


def storage_rows(storage: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Give name, bytes and ratio to the original as float32, row by row.

    Args:
        storage: The report's section.
    """
    original = storage.get("original_bytes")
    yield "original as float32", _bytes(original), ""
    counted, ratios = storage.get("bytes", {}), storage.get("ratios", {})
    for name, words in _RATIOS.items():
        yield words, _bytes(counted.get(name)), _ratio(ratios.get(name))
    kinds = storage.get("by_kind", {})
    for name, words in _KINDS.items():
        if kinds.get(name):
            yield f"  {words}", _bytes(kinds[name]), ""
        if name == "levels":
            mask = storage.get("estimates", {}).get("mask")
            yield "    of which mask, estimated", _bytes(mask), ""
    for name, words in _BASELINES.items():
        taken = storage.get("baselines", {}).get(name)
        if taken is not None:
            whole = name != "levels_nncodec"
            yield words, _bytes(taken), figures.ratio(original, taken) if whole else ""


def _bytes(value: float | None) -> str:
    return figures.NONE if value is None else f"{value:,.0f}"


def _ratio(value: float | None) -> str:
    return figures.NONE if value is None else f"{value:.2f}×"
