"""Capture: from a network and example inputs to its layers, coupled channels and refusals."""

from __future__ import annotations

from torch import Tensor, nn

from lissom.errors import ModelError
from lissom.graph.channels import ChannelIds
from lissom.graph.coupling import couple
from lissom.graph.groups import Found, channel_groups
from lissom.graph.layers import ModelGraph
from lissom.graph.observe import layer_specs, observe
from lissom.graph.refusals import refusals
from lissom.graph.trace import Program, at_batch, private_copy, trace

BATCH = 2


def capture(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> ModelGraph:
    """Find the layers, the coupled channels and what can't be compressed.

    The network itself, its mode, its buffers and the random number generators stay as they are.

    Args:
        model: Any module. It is looked at in eval mode; in train mode too if it has parameters that only
            training uses.
        example_inputs: What ``model`` is called with, with a batch axis first; the values matter little.

    Returns:
        Layers in execution order, groups of channels that can only be cut together (each tried out on a copy),
        and a refusal with its reason for every layer and action that is not offered. If the network's code
        can't be followed, no channel can be cut, and ``notes`` says why.

    Raises:
        ModelError: The network can't be copied, or does not run on the inputs.
    """
    private = private_copy(model)
    inputs = at_batch(example_inputs, BATCH)
    observation = observe(private, inputs)
    notes: list[str] = []
    try:
        program: Program | None = trace(private, inputs)
    except ModelError as error:
        program = None
        notes.append(f"no channel can be cut: {error}")
    found: tuple[Found, ...] = ()
    if program is not None:
        ids = ChannelIds()
        couple(program, private, ids)
        found = channel_groups(ids)
    layers = layer_specs(private, observation.sightings, program, BATCH)
    return ModelGraph(
        layers=layers,
        groups=tuple(f.group for f in found),
        refusals=refusals(private, layers, found, tuple(notes)),
        notes=tuple(notes),
    )
