"""A network before or after tuning for int8: levels, ranges, and the files that they give."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from lissom.errors import ExportError
from lissom.export.int8_operators import with_integer_kernels
from lissom.export.onnx import onnx_content
from lissom.export.qdq import Int8Layout, write_qdq
from lissom.export.rounded_network import RoundedNetwork
from lissom.extension import ModelView
from lissom.plan.quantize import Quantize
from lissom.plan.round_activations import RoundActivations
from lissom.quantization.activation_ranges import Range
from lissom.quantization.levelled import bits_of

_DIGITS = 5  # of a range, in the plan


@dataclass(frozen=True, slots=True)
class Start:
    """Where tuning begins.

    Attributes:
        content: The float network as ``write_qdq`` takes it.
        layout: Ranges as observed.
        evidence: For the report.
    """

    content: bytes
    layout: Int8Layout
    evidence: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Tuned:
    """A network before or after tuning: its float weights, and what they are rounded to.

    Attributes:
        network: With float weights.
        levels: By layer q and s, (C,).
        layout: Ranges as learned, or as observed.
        inputs: Of the network.
        files: What has been exported, by the layers that compute in int8.
    """

    network: nn.Module
    levels: Mapping[str, tuple[Tensor, Tensor]]
    layout: Int8Layout
    inputs: tuple[Tensor, ...]
    files: dict[frozenset[str], bytes] = field(default_factory=dict)

    @classmethod
    def of(
        cls, network: nn.Module, view: ModelView, rounded: RoundedNetwork, start: Int8Layout
    ) -> Tuned:
        """Take what a rounded network has come to.

        Args:
            network: With the float weights of now; is kept.
            view: For the inputs.
            rounded: The network's.
            start: What is not learned is as here.
        """
        ranges = {**start.ranges, **rounded.learned}
        short = {name: _short(one) for name, one in ranges.items()}
        layout = replace(start, ranges=short)
        return cls(network.eval(), rounded.hardened(), layout, view.example_inputs)

    def values(self, layout: Int8Layout) -> dict[str, Tensor]:
        """Give the state dict with the weights of the layers in int8 rounded."""
        state = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        for layer in self._rounded(layout):
            levels, steps = self.levels[layer]
            shaped = steps.view(-1, *[1] * (levels.ndim - 1))
            state[f"{layer}.weight"] = levels.to(torch.float32) * shaped
        return state

    def decisions(self, layout: Int8Layout) -> list[Quantize]:
        """Say of each layer in int8 what its levels are."""
        return [
            Quantize(layer, bits_of(levels), int(levels.count_nonzero()), channel_scales=True)
            for layer in self._rounded(layout)
            for levels in (self.levels[layer][0],)
        ]

    def content(self, layout: Int8Layout) -> bytes:
        """Give the network of ``values`` as ``write_qdq`` takes it."""
        network = copy.deepcopy(self.network)
        network.load_state_dict(self.values(layout))
        return with_integer_kernels(exported(network, self.inputs))

    def file(self, layout: Int8Layout | None = None) -> bytes:
        """Give the file in int8; with the layout as tuned unless another is given."""
        layout = layout or self.layout
        if layout.layers not in self.files:
            self.files[layout.layers] = write_qdq(self.content(layout), layout)
        return self.files[layout.layers]

    def _rounded(self, layout: Int8Layout) -> list[str]:
        return [layer for layer in self.levels if layer in layout.layers]


def exported(network: nn.Module, inputs: tuple[Tensor, ...]) -> bytes:
    """Give a network as ONNX.

    Raises:
        ExportError: The file would take one image at a time.
    """
    content, check = onnx_content(network, inputs)
    if not check.dynamic_batch:
        raise ExportError(
            f"int8: the network's ONNX file would take one image at a time ({check.note}), so that "
            "it can't be tuned; leave the stage out, or let the network take any batch"
        )
    return content


def decision_of(layout: Int8Layout) -> RoundActivations:
    """Give the decision that keeps a layout."""
    ranges = ((name, one.low, one.high) for name, one in sorted(layout.ranges.items()))
    layers = tuple(sorted(layout.layers))
    return RoundActivations(layers, tuple(ranges), layout.reduce_range, layout.bits)


def longest(found: Range) -> Range:
    """Give ends that take more digits than those of any plan, by more than names may differ."""
    ends = (f"{end:.{_DIGITS + 1}e}" for end in (found.low, found.high))
    return Range(*map(float, ends))


def _short(found: Range) -> Range:
    """Round to few digits: a thousandth of a step is of no account."""
    return Range(float(f"{found.low:.{_DIGITS}g}"), float(f"{found.high:.{_DIGITS}g}"))
