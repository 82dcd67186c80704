"""What a network computes inside, over calibration data, in slices that fit into memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor

from lissom.errors import ExportError
from lissom.export.graph import OnnxGraph
from lissom.export.runtime import OnnxSession

_MEMORY = 256 * 2**20  # bytes of all observed tensors of one slice


def observe(
    content: bytes, tensors: Sequence[str], batches: Iterable[Sequence[Tensor]]
) -> Iterator[dict[str, Tensor]]:
    """Run a network and yield the tensors that are asked for.

    Args:
        content: An ONNX file.
        tensors: Names of inputs, outputs or float tensors inside.
        batches: Inputs with the batch in front.

    Yields:
        Values by name, for a few samples at a time.
    """
    graph = OnnxGraph(content)
    inside = [name for name in tensors if name not in (*graph.inputs, *graph.outputs)]
    session = OnnxSession(graph.content(also=inside))
    wanted = set(tensors)
    for inputs in _slices(session, batches):
        feed = dict(zip(session.input_names, inputs, strict=True))
        found = feed | dict(zip((*graph.outputs, *inside), session(*inputs), strict=True))
        yield {name: value for name, value in found.items() if name in wanted}


def _slices(
    session: OnnxSession, batches: Iterable[Sequence[Tensor]]
) -> Iterator[tuple[Tensor, ...]]:
    rows = 0
    for inputs in batches:
        samples = len(inputs[0])
        rows = rows or _rows(session, inputs)
        for start in range(0, samples, rows):
            part = slice(start, start + rows)
            yield tuple(t[part] if t.dim() else t for t in inputs)


def _rows(session: OnnxSession, inputs: Sequence[Tensor]) -> int:
    """Give how many samples fit; 1 where the network takes no other batch."""
    one = tuple(t[:1] if t.dim() else t for t in inputs)
    size = sum(value.numel() * value.element_size() for value in session(*one))
    try:
        session(*(t[:2] if t.dim() else t for t in inputs))
    except ExportError:
        return 1
    return max(1, _MEMORY // size)
