"""A network in int8 without data: for its time, not for its outputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lissom.export.graph import OnnxGraph
from lissom.export.int8_operators import with_integer_kernels
from lissom.export.qdq import Int8Layout, layer_names, tensors_to_observe, write_qdq
from lissom.export.runtime import OnnxSession
from lissom.measure.operation_graph import Feed
from lissom.quantization.activation_ranges import Range


@dataclass(frozen=True, slots=True)
class GuessedInt8:
    """Rounds weights and activations as an int8 file would, with the ranges of one run.

    Attributes:
        ignore: Layers that stay float.
    """

    ignore: frozenset[str] = frozenset()

    def __call__(self, content: bytes, feed: Feed) -> bytes:
        """Give the file in int8.

        Args:
            content: A float network.
            feed: Inputs that it takes.

        Raises:
            ExportError: The network does not run.
        """
        plain = with_integer_kernels(content)
        graph = OnnxGraph(plain)
        needed = tensors_to_observe(plain)
        inside = [name for name in needed if name not in (*graph.inputs, *graph.outputs)]
        values = OnnxSession(graph.content(also=inside)).run_arrays(feed)
        found = feed | dict(zip((*graph.outputs, *inside), values, strict=True))
        ranges = {name: _range(found[name]) for name in needed}
        layers = [one for one in layer_names(plain) if one.partition("#")[0] not in self.ignore]
        return write_qdq(plain, Int8Layout(ranges, frozenset(layers)))


def _range(values: np.ndarray) -> Range:
    return Range(min(float(values.min()), 0.0), max(float(values.max()), 0.0))
