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
from lissom.graph.trace import Program, at_batch, first_names, private_copy, trace
from lissom.graph.trial import try_cuts

BATCH = 2


def capture(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> ModelGraph:
    """Find the layers, the coupled channels and what can't be compressed.

    The network itself, its mode, its buffers and the random number generators stay as they are.

    Args:
        model: Any module. It is looked at in eval mode; in train mode too if it has parameters
            that only training uses.
        example_inputs: What ``model`` is called with, with a batch axis first; the values matter
            little.

    Returns:
        Layers in execution order, groups of channels that can only be cut together (each tried out
        on a copy), and a refusal with its reason for every layer and action that is not offered.
        If the network's code can't be followed, no channel can be cut, and ``notes`` says why.

    Raises:
        ModelError: The network can't be copied, or does not run on the inputs.
    """
    private = private_copy(model)
    inputs = at_batch(example_inputs, BATCH)
    observation = observe(private, inputs)
    notes: list[str] = []
    program: Program | None = None
    found: tuple[Found, ...] = ()
    try:
        program = trace(private, inputs)
    except ModelError as error:
        notes.append(f"no channel can be cut: {error}")
    if program is not None:
        ids = ChannelIds()
        couple(program, private, ids)
        note = _couple_training(program, private, inputs, ids)
        notes += [note] if note else []
        found = try_cuts(private, inputs, channel_groups(ids))
    layers = layer_specs(private, observation.sightings, program, BATCH)
    return ModelGraph(
        layers=layers,
        groups=tuple(f.group for f in found),
        refusals=refusals(private, layers, found, tuple(notes)),
        notes=tuple(notes),
    )


def _couple_training(
    program: Program, model: nn.Module, inputs: tuple[Tensor, ...], ids: ChannelIds
) -> str:
    """Add what auxiliary heads couple, if the network has parameters that only training reads.

    Returns:
        A note if that can't be seen; the trial cuts in train mode then freeze the channels that
        such heads read.
    """
    every = set(first_names(model).values()).intersection(n for n, _ in model.named_parameters())
    if every <= program.used:
        return ""
    trained = private_copy(model).train()
    try:
        training = trace(trained, inputs)
    except ModelError as error:
        return f"parameters that only training uses can't be followed: {error}"
    if training.used - program.used:
        couple(training, trained, ids)
    return ""
