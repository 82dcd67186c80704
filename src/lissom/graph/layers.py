"""The facts about a network that everything else reads."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from lissom.plan.cost import Cost


class Role(StrEnum):
    """What an axis of a member does with the group's channels."""

    OUTPUT = "output"  # axis 0 of a producing weight, and its bias
    INPUT = "input"  # the axis of a weight that consumes the channels
    VECTOR = "vector"  # one value per channel: batch norm, PReLU, layer scale, running statistics
    MAP = "map"  # a side (0 output, 1 input) of a module that keeps its own channel map


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One module that owns parameters, as it was seen running.

    Attributes:
        name: Dotted module name (the first one, if the module is known under several).
        kind: ``conv2d``, ``conv_transpose2d``, ``linear``, ``batch_norm``, ``group_norm``,
            ``layer_norm``, ``prelu`` or, for anything else, the module's class name.
        input_shape: Shape of the first input at the first call, without batch; () if never seen:
            it does not run, or another module reads its weight.
        output_shape: Shape of the output, without batch.
        calls: How often one forward pass runs it (0: it runs in training only, or never).
        cost: Parameters once, MACs summed over the calls.
    """

    name: str
    kind: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    calls: int
    cost: Cost


@dataclass(frozen=True, slots=True)
class Member:
    """One axis of one tensor whose entries belong to a group's channels.

    Attributes:
        tensor: State-dict name of the parameter or buffer (the first alias), or, for ``Role.MAP``,
            the name of the module.
        axis: The axis that shrinks. For ``Role.MAP`` 0 is the output side and 1 the input side.
        role: What the axis does.
        labels: For each index along the axis the channel (0 .. channels-1) that it belongs to, or
            -1 if it belongs to another group. A channel may stand at several indices (flatten
            before a linear layer), or at none.
        groups: Convolution groups where ``axis`` is the input axis of a grouped convolution; then
            ``labels`` runs over ALL input channels (``groups * weight.shape[1]``). 1 elsewhere.
    """

    tensor: str
    axis: int
    role: Role
    labels: tuple[int, ...]
    groups: int = 1


@dataclass(frozen=True, slots=True)
class ChannelGroup:
    """Channels that can only be removed together, over every tensor that they touch.

    Attributes:
        name: Name of the first layer that produces them.
        channels: How many there are.
        members: Every axis that shrinks with them.
        producers: Names of the layers (convolution, linear) whose outputs they are, in execution
            order.
        consumers: Names of the layers whose inputs they are.
        balance: Each entry gives a part number per channel (-1: unconstrained); the kept channels
            must be equally many in every part (convolution groups, norm groups, chunks, shuffles).
        exact: Whether a channel that all consumers ignore can be removed without any change of the
            output (False where an operator computes over channels, LayerNorm for one).
        frozen_because: Why the group can't be cut, or None if it can.
    """

    name: str
    channels: int
    members: tuple[Member, ...]
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    balance: tuple[tuple[int, ...], ...] = ()
    exact: bool = True
    frozen_because: str | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that lissom will not do to a layer, and why.

    Attributes:
        layer: Dotted name of the layer.
        action: ``prune``, ``decompose`` or ``quantize``.
        reason: What stands in the way.
        where: Source line of the user's code, or "".
        remedy: What the user can change.
    """

    layer: str
    action: str
    reason: str
    where: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class ModelGraph:
    """What a network is made of.

    Attributes:
        layers: In execution order; modules that never ran come last.
        groups: Channel groups, in the order of their first producer.
        refusals: Every layer and action that is not offered.
        notes: Remarks on the whole network (a failed capture, say).
    """

    layers: tuple[LayerSpec, ...]
    groups: tuple[ChannelGroup, ...]
    refusals: tuple[Refusal, ...]
    notes: tuple[str, ...] = ()

    @property
    def cost(self) -> Cost:
        """Sum over all layers."""
        return sum((layer.cost for layer in self.layers), Cost())

    def layer(self, name: str) -> LayerSpec:
        """Give the layer called ``name``.

        Raises:
            KeyError: There is none.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(name)
