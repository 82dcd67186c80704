"""A float network as one in int8: pairs of QuantizeLinear and DequantizeLinear at its places.

The layout is the one that ONNX Runtime and OpenVINO fuse into integer operators: uint8 activations
with zero point 0 after a ReLU, int8 weights with a scale per output channel, int32 biases, both
branches of a residual sum rounded before it and the sum after it. What the ranges are, and which
layers take part, is decided elsewhere (calibration now; a training may learn them).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, helper

from lissom.errors import ExportError
from lissom.export.graph import Array, OnnxGraph, attribute
from lissom.export.int8_places import (
    WEIGHTED,
    Place,
    chosen_places,
    find_places,
    rounded_tensors,
)
from lissom.export.int8_weights import WEIGHT_LEVELS, weight_steps
from lissom.quantization.activation_ranges import Affine, Range, affine

_NARROW_LEVELS = 63  # 255 x 63 x 2 still fits the 16 bits in which CPUs without VNNI add pairs
_INTEGERS = "_int"
_LARGEST_BIAS = 2**30


@dataclass(frozen=True, slots=True)
class Int8Layout:
    """What is rounded, and how.

    Attributes:
        ranges: Of the activations, by tensor.
        layers: Those that compute in int8.
        reduce_range: Weights in 7 bits, for CPUs without VNNI, whose sums of pairs overflow.
        bits: Most of a weight, 2 to 8. Weights that lie on a coarser grid keep it.
    """

    ranges: Mapping[str, Range]
    layers: frozenset[str]
    reduce_range: bool = False
    bits: int = 8

    @property
    def weight_levels(self) -> int:
        """Give the largest integer of a weight."""
        return min(2 ** (self.bits - 1) - 1, _NARROW_LEVELS if self.reduce_range else WEIGHT_LEVELS)


def tensors_to_observe(content: bytes) -> list[str]:
    """Name the tensors whose ranges a layout needs, whichever layers it is of."""
    places = find_places(OnnxGraph(content))
    read = [name for place in places for name in place.inputs]
    written = [place.output for place in places if not place.float_output]
    return list(dict.fromkeys(read + written))


def tensors_needed(content: bytes, layers: Collection[str]) -> set[str]:
    """Name the tensors whose ranges a layout of these layers reads."""
    graph = OnnxGraph(content)
    return set(rounded_tensors(chosen_places(graph, find_places(graph), layers)).values())


def check_fits(content: bytes, layout: Int8Layout) -> None:
    """Refuse a layout that was made for another file.

    Args:
        content: A network as ``write_qdq`` takes it.
        layout: From a plan.

    Raises:
        ExportError: It names layers that the file has not got, or lacks the range of a tensor.
    """
    absent = sorted(layout.layers - set(layer_names(content)))
    absent += sorted(tensors_needed(content, layout.layers) - layout.ranges.keys())
    if absent:
        raise ExportError(
            f"the plan's int8 layout does not fit the network's ONNX file, which differs in "
            f"{', '.join(absent[:3])}: this version of torch exports it otherwise; calibrate anew "
            "with lissom export --to onnx-int8 --data NAME"
        )


def layer_names(content: bytes) -> list[str]:
    """Name the layers that can compute in int8, in the order in which they run."""
    return [place.name for place in find_places(OnnxGraph(content)) if place.kind == "layer"]


def write_qdq(content: bytes, layout: Int8Layout) -> bytes:
    """Write the pairs into a float network.

    Args:
        content: An ONNX file whose batch norms are folded.
        layout: What is rounded.

    Returns:
        The bytes of the new file. Any runtime can run it; one that knows the pattern uses integers.

    Raises:
        KeyError: A range is missing.
    """
    graph = OnnxGraph(content)
    rounding, chosen = Rounding.of(graph, layout)
    for place in find_places(graph):
        if place.kind == "layer":  # what ONNX Runtime builds the names of its operators on
            place.node.name = place.name
    for place in chosen:
        if place.kind == "layer":
            rounding.round_weights(place, layout.weight_levels)
    rounding.rewire()
    return graph.content()


class Rounding:
    """The edit of one graph.

    Attributes:
        before: Nodes that must run before the one of that first output.
    """

    def __init__(
        self, graph: OnnxGraph, scales: Mapping[str, Affine], places: Collection[Place]
    ) -> None:
        """Edit nothing yet.

        Args:
            graph: Is changed.
            scales: Of all tensors that are rounded.
            places: What computes in int8.
        """
        self._graph = graph
        self._scales = scales
        self._ours = {place.node.output[0]: place for place in places}
        self._outputs = {place.output for place in places}
        self.before: dict[str, list[NodeProto]] = {}

    @classmethod
    def of(cls, graph: OnnxGraph, layout: Int8Layout) -> tuple[Rounding, list[Place]]:
        """Begin with a layout, and give the places that compute in int8.

        Raises:
            KeyError: A range is missing.
        """
        chosen = chosen_places(graph, find_places(graph), layout.layers)
        observed = rounded_tensors(chosen)
        scales = {name: affine(layout.ranges[source]) for name, source in observed.items()}
        return cls(graph, scales, chosen), chosen

    def round_weights(self, place: Place, levels: int) -> None:
        """Give a layer integer weights and bias."""
        node, constants = place.node, self._graph.constants
        axis = _output_axis(node)
        weight = constants[node.input[1]]
        scale_in = self._scales[place.inputs[0]].scale
        bias = constants[node.input[2]] if len(node.input) > 2 and node.input[2] else None
        steps = weight_steps(np.moveaxis(weight, axis, 0), levels)
        if bias is not None:
            # A channel of hardly any weight has a step so small that its bias would not fit int32.
            bias = np.broadcast_to(bias, steps.shape)
            steps = np.maximum(steps, np.abs(bias) / (scale_in * _LARGEST_BIAS)).astype(np.float32)
        shaped = steps.reshape(tuple(-1 if i == axis else 1 for i in range(weight.ndim)))
        integers = np.clip(np.rint(weight / shaped), -levels, levels).astype(np.int8)
        nodes = self.before.setdefault(node.output[0], [])
        nodes.append(self._constant(f"{place.name}.weight", integers, steps, axis))
        node.name = place.name
        node.input[1] = nodes[-1].output[0]
        if bias is not None:
            units = (steps.astype(np.float64) * scale_in).astype(np.float32)
            counts = np.rint(bias / units.astype(np.float64)).astype(np.int32)
            nodes.append(self._constant(f"{place.name}.bias", counts, units, 0))
            node.input[2] = nodes[-1].output[0]

    def rewire(self) -> None:
        """Put the pairs in, and let nodes read what has been rounded."""
        for node in self._graph.nodes:
            inside = node.output[0] in self._ours
            for index, name in enumerate(node.input):
                # A fused operator never gives its float result: nobody may read that.
                if name in self._scales and (inside or name in self._outputs):
                    node.input[index] = restored(name)
                    if not inside and index == 0:
                        self._keep_float(node, name)
        nodes = [node for name in self._graph.inputs for node in self.pair(name)]
        for node in self._graph.nodes:
            nodes += self.before.get(node.output[0], [])
            nodes.append(node)
            for name in node.output:
                nodes += self.pair(name)
        self._rename_outputs(nodes)
        self._graph.replace_nodes(nodes)

    def pair(self, name: str) -> Iterator[NodeProto]:
        """Give the two nodes after a tensor that is rounded; none after another."""
        if name not in self._scales:
            return
        how = self._scales[name]
        scale, zero = f"{name}_scale", f"{name}_zero_point"
        self._graph.constants[scale] = np.array(how.scale, np.float32)
        self._graph.constants[zero] = np.array(how.zero_point, np.uint8)
        rounded = f"{name}_rounded"
        yield helper.make_node(
            "QuantizeLinear", [name, scale, zero], [rounded], name=f"{name}_quantize"
        )
        yield helper.make_node(
            "DequantizeLinear", [rounded, scale, zero], [restored(name)], name=f"{name}_dequantize"
        )

    def _keep_float(self, node: NodeProto, name: str) -> None:
        """Let a layer between rounded tensors stay float.

        ONNX Runtime rounds the weights of a layer that reads a rounded tensor, with one scale for
        all of them (``WeightBiasQuantization``), unless that tensor has a scale per channel. It
        gets one: the same for all channels.

        Args:
            node: Reads the tensor first.
            name: Of the tensor.
        """
        channels = _input_channels(self._graph, node)
        if channels is None:
            return
        how, per_channel = self._scales[name], f"{name}_by_channel"
        names = [f"{name}_rounded", f"{per_channel}_scale", f"{per_channel}_zero_point"]
        self._graph.constants[names[1]] = np.full(channels, how.scale, np.float32)
        self._graph.constants[names[2]] = np.full(channels, how.zero_point, np.uint8)
        node.input[0] = f"{node.output[0]}_{per_channel}"
        nodes = self.before.setdefault(node.output[0], [])
        nodes.append(
            helper.make_node("DequantizeLinear", names, [node.input[0]], node.input[0], axis=1)
        )

    def _constant(self, name: str, integers: Array, scales: Array, axis: int) -> NodeProto:
        """Add integers as constants, and give the node that turns them into real numbers."""
        names = [f"{name}{_INTEGERS}", f"{name}_scale", f"{name}_zero_point"]
        values = (integers, scales, np.zeros(scales.shape, integers.dtype))
        self._graph.constants.update(zip(names, values, strict=True))
        return helper.make_node(
            "DequantizeLinear", names, [f"{name}_restored"], name=f"{name}_dequantize", axis=axis
        )

    def _rename_outputs(self, nodes: list[NodeProto]) -> None:
        """Keep the network's own output names where an output has been rounded."""
        for name in self._graph.outputs:
            if name not in self._outputs or name not in self._scales:
                continue
            new = {name: f"{name}_float", restored(name): name}
            for node in nodes:
                for names in (node.input, node.output):
                    names[:] = [new.get(entry, entry) for entry in names]


def _output_axis(node: NodeProto) -> int:
    if node.op_type == "Conv" or (node.op_type == "Gemm" and attribute(node, "transB", 0)):
        return 0
    return 1


def _input_channels(graph: OnnxGraph, node: NodeProto) -> int | None:
    """Give the length of the second axis of what a float layer reads; None for other nodes."""
    if node.op_type not in WEIGHTED or len(node.input) < 2 or attribute(node, "transA", 0):
        return None
    weight = graph.constants.get(node.input[1])
    if weight is None:
        return None
    if node.op_type == "Conv":
        return int(weight.shape[1] * attribute(node, "group", 1))
    across = node.op_type == "Gemm" and attribute(node, "transB", 0)
    return int(weight.shape[1 if across else 0])


def weight_constant(layer: str) -> str:
    """Name the constant that holds a layer's integer weights."""
    return f"{layer}.weight{_INTEGERS}"


def restored(name: str) -> str:
    """Name what a rounded tensor is read as."""
    return f"{name}_restored"
