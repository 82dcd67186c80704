"""An ONNX graph that can be read by name and changed in place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

Array = NDArray[Any]


class OnnxGraph:
    """A network as ONNX: who computes a tensor, who reads it, what is constant.

    A node goes by the name of its first output, which is unique in a graph.

    Args:
        content: Bytes of a file without external data. A copy is worked on.

    Attributes:
        constants: Values by name; what is changed here stands in ``content()``.
        shapes: Sizes where the file states them; None stands for a free one.
        inputs: Names.
        outputs: Names.
    """

    def __init__(self, content: bytes) -> None:
        self.model = onnx.load_from_string(content)
        graph = self.model.graph
        self.shapes = {
            entry.name: tuple(
                size.dim_value if size.HasField("dim_value") else None
                for size in entry.type.tensor_type.shape.dim
            )
            for entry in (*graph.value_info, *graph.input, *graph.output)
        }
        # Shapes of intermediate tensors and the exporter's notes (source lines, paths) would go
        # stale with the first change, and the file is smaller without them.
        del graph.value_info[:]
        for noted in (self.model, graph, *graph.node, *graph.input, *graph.output):
            del noted.metadata_props[:]
        for node in graph.node:
            node.doc_string = ""
        self.constants: dict[str, Array] = {
            entry.name: numpy_helper.to_array(entry) for entry in graph.initializer
        }
        del graph.initializer[:]
        for node in [one for one in graph.node if one.op_type == "Constant"]:
            value = attribute(node, "value")
            if value is not None:
                self.constants[node.output[0]] = numpy_helper.to_array(value)
                graph.node.remove(node)
        self.inputs = tuple(entry.name for entry in graph.input)
        self.outputs = tuple(entry.name for entry in graph.output)

    @property
    def nodes(self) -> Sequence[NodeProto]:
        """Give the nodes in the order in which they run."""
        return self.model.graph.node

    def producers(self) -> dict[str, NodeProto]:
        """Give the node that computes a tensor."""
        return {name: node for node in self.nodes for name in node.output if name}

    def readers(self) -> dict[str, list[NodeProto]]:
        """Give the nodes that read a tensor; [] where nobody does."""
        found: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                found[name].append(node)
        return found

    def sole_reader(self, tensor: str, readers: dict[str, list[NodeProto]]) -> NodeProto | None:
        """Give the one node that reads ``tensor``; None where others, or the user, read it too."""
        nodes = readers.get(tensor, [])
        return nodes[0] if len(nodes) == 1 and tensor not in self.outputs else None

    def replace_nodes(self, nodes: Iterable[NodeProto]) -> None:
        """Put other nodes in place of all that there are, and forget constants nobody reads."""
        kept = list(nodes)
        del self.model.graph.node[:]
        self.model.graph.node.extend(kept)
        used = {name for node in kept for name in node.input} | set(self.outputs)
        self.constants = {name: value for name, value in self.constants.items() if name in used}

    def content(self, *, also: Sequence[str] = ()) -> bytes:
        """Give the bytes of a file.

        Args:
            also: Float tensors inside the network that it shall give as further outputs.
        """
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        model.graph.initializer.extend(
            numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
            for name, value in self.constants.items()
        )
        model.graph.output.extend(
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in also
        )
        return model.SerializeToString()


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """Give an attribute of a node as a Python value."""
    for entry in node.attribute:
        if entry.name == name:
            return helper.get_attribute_value(entry)
    return default
