"""ONNX files, checked in ONNX Runtime against the network that they came from."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from lissom.errors import ExportError
from lissom.export.chains import merge_chains
from lissom.export.difference import outputs_of
from lissom.export.files import write_files
from lissom.export.runtime import RUNTIME, OnnxSession
from lissom.export.translate import innermost_reason, translated, with_batch

Chains = Literal["kept", "merged"]

_LIKE_TORCH = 4  # times torch's own rounding error
_OTHER_BATCH = 3  # differs from the batch of 2 at which the network is traced


@dataclass(frozen=True, slots=True)
class OnnxCheck:
    """How well an ONNX file agrees with the network that it came from.

    Attributes:
        max_difference: Largest absolute difference between ONNX Runtime and torch over all outputs.
        scale: Largest absolute value of torch's outputs.
        tolerance: What ``max_difference / scale`` had to stay below.
        rounding: Largest difference between torch in float32 and in float64, measured where
            ``max_difference`` exceeded the tolerance; else None. Four times that is accepted, too.
        batches: Batch sizes that were compared.
        dynamic_batch: Whether the file takes any batch size.
        note: Why the batch size is fixed; "" if it is not.
        opset: ONNX operator set.
        size_bytes: Bytes of the file.
        runtime: Name and version of the runtime.
        merged: How many 1x1 convolutions went into those behind them.
    """

    max_difference: float
    scale: float
    tolerance: float
    rounding: float | None
    batches: tuple[int, ...]
    dynamic_batch: bool
    note: str
    opset: int
    size_bytes: int
    runtime: str
    merged: int = 0


def export_onnx(
    model: nn.Module,
    example_inputs: Sequence[Tensor],
    path: Path,
    *,
    opset: int = 20,
    tolerance: float = 1e-4,
    chains: Chains = "merged",
) -> OnnxCheck:
    """Write ``model`` as an ONNX file, with a free batch size where the network allows one.

    The file gets its name only once ONNX Runtime computes what torch computes. ``model`` is not
    changed.

    Args:
        model: Any network; a copy of it is exported on the CPU in eval mode.
        example_inputs: Inputs with the batch in front.
        path: Where the file goes.
        opset: ONNX operator set.
        tolerance: Largest difference allowed, relative to the largest output. Float32 sums in
            another order differ by about 1e-6; networks that amplify rounding by more, as torch in
            float64 shows, may differ by as much as torch's own error.
        chains: Whether 1x1 convolutions are ``merged`` with those behind them, where that saves
            MACs; ``kept``, every layer has a node of its own.

    Raises:
        ExportError: The network can't be expressed, or the file computes something else.
        LissomError: The file can't be written.
    """
    content, check = onnx_content(
        model, example_inputs, opset=opset, tolerance=tolerance, chains=chains
    )
    write_files({path: content})
    return check


def onnx_content(
    model: nn.Module,
    example_inputs: Sequence[Tensor],
    *,
    opset: int = 20,
    tolerance: float = 1e-4,
    chains: Chains = "kept",
) -> tuple[bytes, OnnxCheck]:
    """Give what ``export_onnx`` writes, checked in the same way.

    Args:
        model: Any network.
        example_inputs: Inputs with the batch in front.
        opset: ONNX operator set.
        tolerance: As for ``export_onnx``.
        chains: As for ``export_onnx``.

    Raises:
        ExportError: The network can't be expressed, or the file computes something else.
    """
    network = copy.deepcopy(model).cpu().eval()
    inputs = tuple(tensor.detach().cpu() for tensor in example_inputs)
    note = ""
    batches: tuple[int, ...] = (1, _OTHER_BATCH)
    try:
        content, merged = _merged(
            translated(network, with_batch(inputs, 2), opset, batch="free"), chains
        )
        found = _compare(network, content, inputs, batches)
        rounding = _checked(network, inputs, batches, found, tolerance)
    # The exporter raises many unrelated types; whatever stops a free batch, a fixed one may work.
    except Exception as error:
        note = f"batch fixed at 1: {innermost_reason(error)}"
        batches = (1,)
        content, merged = _merged(_fixed(network, with_batch(inputs, 1), opset), chains)
        found = _compare(network, content, inputs, batches)
        rounding = _checked(network, inputs, batches, found, tolerance)
    check = OnnxCheck(
        max_difference=found[0],
        scale=found[1],
        tolerance=tolerance,
        rounding=rounding,
        batches=batches,
        dynamic_batch=not note,
        note=note,
        opset=opset,
        size_bytes=len(content),
        runtime=RUNTIME,
        merged=merged,
    )
    return content, check


def _merged(content: bytes, chains: Chains) -> tuple[bytes, int]:
    return merge_chains(content) if chains == "merged" else (content, 0)


def _checked(
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    batches: Sequence[int],
    found: tuple[float, float],
    tolerance: float,
) -> float | None:
    """Refuse what is further from torch than the tolerance, and than torch is from the truth.

    Returns:
        Torch's own rounding error, where it had to be measured.
    """
    difference, scale = found
    if difference <= tolerance * scale:
        return None
    rounding = _rounding(network, inputs, batches)
    if not difference <= _LIKE_TORCH * rounding:
        raise ExportError(
            f"ONNX Runtime differs from torch by {difference:.3g} where outputs reach {scale:.3g}; "
            f"at most {tolerance:g} of that is accepted, or {_LIKE_TORCH} times what torch itself "
            f"loses to rounding ({rounding:.3g}). No file was written: try another opset, "
            "or look for an operator that is random or depends on the batch"
        )
    return rounding


def _rounding(network: nn.Module, examples: tuple[Tensor, ...], batches: Sequence[int]) -> float:
    """Give the largest difference between the network in float32 and in float64; 0 if unknown."""
    precise = copy.deepcopy(network).double()
    error = 0.0
    for inputs in (with_batch(examples, size) for size in batches):
        doubles = tuple(part.double() if part.is_floating_point() else part for part in inputs)
        try:
            ours, exact = outputs_of(network, inputs), outputs_of(precise, doubles)
            gaps = (_largest(a.double() - b) for a, b in zip(ours, exact, strict=True))
            error = max(error, *gaps)
        except (RuntimeError, TypeError):  # it insists on float32 somewhere
            return 0.0
    return error


def _fixed(network: nn.Module, inputs: tuple[Tensor, ...], opset: int) -> bytes:
    try:
        return translated(network, inputs, opset, batch="fixed")
    except Exception as error:
        raise ExportError(
            f"{type(network).__name__}: torch.onnx can't express this network at opset {opset} "
            f"({innermost_reason(error)}); replace the operator that it names, or use another "
            "exporter"
        ) from error


def _compare(
    network: nn.Module, content: bytes, examples: tuple[Tensor, ...], batches: Sequence[int]
) -> tuple[float, float]:
    """Give the largest absolute difference and the largest absolute output over all batch sizes."""
    session = OnnxSession(content)
    difference = scale = 0.0
    for inputs in (with_batch(examples, size) for size in batches):
        for ours, theirs in zip(outputs_of(network, inputs), session(*inputs), strict=True):
            scale = max(scale, _largest(ours))
            gap = _largest(ours.double() - theirs.double())
            if math.isnan(gap):
                return gap, scale
            difference = max(difference, gap)
    return difference, scale


def _largest(tensor: Tensor) -> float:
    return tensor.abs().max().item() if tensor.numel() else 0.0
