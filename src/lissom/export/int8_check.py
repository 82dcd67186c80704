"""What a file in int8 gives when it runs, and what runs as what."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import Tensor

from lissom.errors import ExportError
from lissom.export.qdq import weight_constant
from lissom.export.runtime import OnnxSession

FLOAT = "float"
_INTEGER = ("QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "ConvInteger")
_COPY = re.compile(r"_token_\d+$")  # what an optimised node's name ends in
_FREE = 0.01  # of the largest output: below this a difference of kernels is of no account


@dataclass(frozen=True, slots=True)
class Agreement:
    """How close one network's outputs are to another's.

    Attributes:
        top1: Share of samples (of pixels, for maps) with the same largest output.
        max_difference: Largest absolute difference of any output.
        mean_difference: Mean absolute difference.
        scale: Largest absolute output of the reference.
        samples: How many were compared.
    """

    top1: float
    max_difference: float
    mean_difference: float
    scale: float
    samples: int


def agreement(
    ours: Sequence[tuple[Tensor, ...]], reference: Sequence[tuple[Tensor, ...]]
) -> Agreement:
    """Compare outputs batch by batch; the top-1 agreement is that of the first output."""
    same = [
        _classes(found[0]) == _classes(wanted[0])
        for found, wanted in zip(ours, reference, strict=True)
    ]
    gaps = [
        (a.double() - b.double()).abs().flatten()
        for found, wanted in zip(ours, reference, strict=True)
        for a, b in zip(found, wanted, strict=True)
    ]
    every = torch.cat(gaps)
    return Agreement(
        top1=torch.cat([one.flatten() for one in same]).double().mean().item(),
        max_difference=every.max().item(),
        mean_difference=every.mean().item(),
        scale=max(tensor.abs().max().item() for outputs in reference for tensor in outputs),
        samples=sum(len(outputs[0]) for outputs in reference),
    )


def _classes(output: Tensor) -> Tensor:
    return output.argmax(dim=1) if output.dim() > 1 else output


def check_kernels(content: bytes, batches: Sequence[tuple[Tensor, ...]]) -> Agreement:
    """Compare ONNX Runtime's integer kernels with the same file carried out as it is written.

    There the pairs round in float arithmetic, which is what the file means. Integer kernels may
    decide ties differently, and no more than that.

    Args:
        content: A file with quantized places.
        batches: Inputs; few do.

    Raises:
        ExportError: The kernels compute something else, as those of CPUs without VNNI do when sums
            of 16 bits overflow.
    """
    session, plain = OnnxSession(content), OnnxSession(content, optimise="none")
    found = agreement([session(*one) for one in batches], [plain(*one) for one in batches])
    if found.mean_difference > _FREE * found.scale:
        raise ExportError(
            f"ONNX Runtime's int8 kernels differ from what the file says by "
            f"{found.mean_difference:.3g} on average where outputs reach {found.scale:.3g}; no "
            "file was written: on a CPU without VNNI ask for 7-bit weights (--reduce-range, or "
            "reduce_range: true for the stage)"
        )
    return found


def operators_as_run(
    content: bytes, layers: Collection[str]
) -> tuple[dict[str, str], Counter[str]]:
    """Say what ONNX Runtime makes of a file on this CPU.

    Args:
        content: A file that ``write_qdq`` wrote.
        layers: Names of its layers.

    Returns:
        The operator of each layer (``QLinearConv``, ``QGemm``, ...; ``float`` where it computes in
        float), and how often each operator stands in the optimised network.
    """
    with tempfile.TemporaryDirectory(prefix="lissom-int8-") as folder:
        path = Path(folder) / "optimised.onnx"
        OnnxSession(content, optimised_file=path)
        nodes = onnx.load(path).graph.node
    integer = [node for node in nodes if node.op_type in _INTEGER]
    found = {_COPY.sub("", node.name): node.op_type for node in integer}
    found |= {name: node.op_type for node in integer for name in node.input}
    runs = {name: found.get(weight_constant(name), found.get(name, FLOAT)) for name in layers}
    return runs, Counter(node.op_type for node in nodes)


def count_int8(runs: Mapping[str, str]) -> int:
    """Count the layers that compute in int8."""
    return sum(kind != FLOAT for kind in runs.values())
