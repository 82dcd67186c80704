"""The report's section on storage: what the packed file takes, and what others would."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from torch import nn

from lissom.artifacts import weights_content
from lissom.measure.baselines import lzma_bytes, nncodec_bytes
from lissom.packed.accounting import storage_of
from lissom.packed.network import stored_state
from lissom.packed.recognise import packable
from lissom.packed.tensors import Levels
from lissom.packed.writer import PackedFile
from lissom.plan.plan import Plan
from lissom.plan.quantize import Quantize


def storage_section(
    models: tuple[nn.Module, nn.Module], plan: Plan, packed: PackedFile, int8_onnx: int | None
) -> dict[str, Any]:
    """Give the section, JSON-ready.

    Args:
        models: The original and the compressed network.
        plan: All decisions between the two.
        packed: The compressed network's file.
        int8_onnx: Bytes of the original as ONNX with int8 weights; None where there is none.
    """
    original, compressed = models
    state = stored_state(compressed)
    parameters = sum(parameter.numel() for parameter in original.parameters())
    found = [packable(value) for value in state.values()]
    levels = [one.levels.numpy() for one in found if isinstance(one, Levels)]
    baselines = {
        "original_lzma": lzma_bytes(weights_content(original)),
        "original_int8_onnx": int8_onnx,
        "levels_nncodec": nncodec_bytes(levels),
    }
    return {**asdict(storage_of(state, plan, packed, parameters)), "baselines": baselines}


def not_levels(network: nn.Module, plan: Plan) -> list[str]:
    """Name the layers that the plan quantizes and the packed file can only keep as they are.

    Args:
        network: The compressed network.
        plan: All decisions that led to it.
    """
    state = stored_state(network)
    planned = {
        one.layer: f"{one.layer}.weight" for one in plan.decisions if isinstance(one, Quantize)
    }
    return [
        layer
        for layer, name in planned.items()
        if name in state and not isinstance(packable(state[name]), Levels)
    ]
