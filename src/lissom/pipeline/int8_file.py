"""The network of a run as a file in int8, where its plan decides on one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from lissom.export.int8_check import check_kernels, operators_as_run
from lissom.export.int8_operators import with_integer_kernels
from lissom.export.onnx import onnx_content
from lissom.export.qdq import Int8Layout, check_fits, layer_names, write_qdq
from lissom.export.runtime import OnnxNetwork, OnnxSession, structure_of
from lissom.plan.plan import Plan
from lissom.plan.round_activations import RoundActivations
from lissom.quantization.activation_ranges import Range
from lissom.task import Data, Task, first_inputs
from lissom.train.evaluate import evaluate, watched

_CHECKED_IMAGES = 128


@dataclass(frozen=True, slots=True)
class Int8File:
    """A file in int8, and what is known of it.

    Attributes:
        content: Of the file.
        section: Of the report, JSON-ready, without latency.
    """

    content: bytes
    section: dict[str, Any]


def planned_layout(plan: Plan) -> Int8Layout | None:
    """Give what a plan rounds; None where it rounds no activations."""
    last = plan.decisions[-1] if plan.decisions else None
    if not isinstance(last, RoundActivations):
        return None
    ranges = {name: Range(low, high) for name, low, high in last.ranges}
    return Int8Layout(ranges, frozenset(last.layers), last.reduce_range, last.weight_bits)


def planned_file(content: bytes, layout: Int8Layout) -> bytes:
    """Give a network's file in int8.

    Args:
        content: The network as ``write_qdq`` takes it.
        layout: Of the plan that led to it.

    Raises:
        ExportError: The plan names tensors or layers that the network's file has not got.
    """
    check_fits(content, layout)
    return write_qdq(content, layout)


def int8_file(
    network: nn.Module,
    plan: Plan,
    inputs: Sequence[Tensor],
    data: Data,
    task: Task,
) -> Int8File | None:
    """Make the file that a plan decides on, run it, and give what that shows.

    Args:
        network: The finished network.
        plan: All decisions that led to it.
        inputs: Of the network, with the batch in front.
        data: Kernels are compared on held-out images; the metric is that of the test set.
        task: Says what of a batch is an input.

    Raises:
        ExportError: The file can't be made, or integer kernels compute something else.
    """
    layout = planned_layout(plan)
    if layout is None:
        return None
    plain = with_integer_kernels(onnx_content(network, inputs)[0])
    content = planned_file(plain, layout)
    runs, operators = operators_as_run(content, layer_names(plain))
    agreement = check_kernels(content, first_inputs(task, data.held_out, _CHECKED_IMAGES))
    metric, runtime = task.metric, OnnxNetwork(OnnxSession(content), structure_of(network, inputs))
    value = evaluate(runtime, watched("evaluate int8", data.test), task, device="cpu")
    section = {
        "metric": {
            "name": metric.name,
            "value": value,
            "unit": metric.unit,
            "higher_is_better": metric.higher_is_better,
        },
        "size_bytes": len(content),
        "layers": runs,
        "operators": dict(operators),
        "kernel_agreement": asdict(agreement),
    }
    return Int8File(content, section)
