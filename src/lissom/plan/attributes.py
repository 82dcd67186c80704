"""Module attributes that must agree with tensors after a cut: channel counts, shapes, groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import singledispatch

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from lissom.errors import PlanError


@singledispatch
def prepare_cut(owner: nn.Module, name: str, key: str, axis: int, keep: Sequence[int]) -> None:
    """Set what depends on which entries stay, before ``owner``'s tensor ``key`` shrinks.

    Only grouped convolutions have such a thing: the number of groups of a depthwise one.

    Args:
        owner: The module that holds the tensor.
        name: State-dict name of the tensor, for messages.
        key: Name of the tensor within ``owner``.
        axis: The axis to cut.
        keep: The indices that stay.

    Raises:
        PlanError: The groups of a convolution would become uneven.
    """
    del owner, name, key, axis, keep


@prepare_cut.register(_ConvNd)
def _(owner: _ConvNd, name: str, key: str, axis: int, keep: Sequence[int]) -> None:
    if key != "weight" or axis != 0 or owner.groups == 1:
        return
    rows = owner.weight.shape[0] // owner.groups
    counts = Counter(k // rows for k in keep)
    even = len(counts) == owner.groups and len(set(counts.values())) == 1
    whole = set(counts.values()) == {rows} and owner.in_channels == owner.groups
    if even:
        return
    if not whole:
        raise PlanError(
            f"{name} belongs to a convolution with groups={owner.groups}, {rows} rows each; "
            "expected "
            "equally many rows to keep in each group, or whole groups of a depthwise convolution, "
            "got "
            f"{[counts[j] for j in range(min(owner.groups, 16))]}"
        )
    owner.groups = len(counts)


@singledispatch
def agree(owner: nn.Module, name: str, key: str) -> None:
    """Make the attributes that ``owner.forward`` reads agree with its tensor ``key`` after a cut.

    A module of an unknown class is left alone.

    Args:
        owner: The module that holds the tensor.
        name: State-dict name of the tensor, for messages.
        key: Name of the tensor within ``owner``.

    Raises:
        PlanError: The size does not fit the other attributes (``num_groups`` of a GroupNorm).
    """
    del owner, name, key


@agree.register(_ConvNd)
def _(owner: _ConvNd, name: str, key: str) -> None:
    del name, key
    first, second = owner.weight.shape[0], owner.weight.shape[1] * owner.groups
    owner.in_channels, owner.out_channels = (first, second) if owner.transposed else (second, first)


@agree.register(nn.Linear)
def _(owner: nn.Linear, name: str, key: str) -> None:
    del name, key
    owner.out_features, owner.in_features = owner.weight.shape


@agree.register(nn.Embedding)
def _(owner: nn.Embedding, name: str, key: str) -> None:
    del name, key
    owner.num_embeddings, owner.embedding_dim = owner.weight.shape


@agree.register(_NormBase)
def _(owner: _NormBase, name: str, key: str) -> None:
    del name
    owner.num_features = getattr(owner, key).shape[0]


@agree.register(nn.PReLU)
def _(owner: nn.PReLU, name: str, key: str) -> None:
    del name, key
    owner.num_parameters = owner.weight.shape[0]


@agree.register(nn.LayerNorm)
@agree.register(nn.RMSNorm)
def _(owner: nn.LayerNorm | nn.RMSNorm, name: str, key: str) -> None:
    del name
    owner.normalized_shape = tuple(getattr(owner, key).shape)


@agree.register(nn.GroupNorm)
def _(owner: nn.GroupNorm, name: str, key: str) -> None:
    owner.num_channels = getattr(owner, key).shape[0]
    if owner.num_channels % owner.num_groups:
        raise PlanError(
            f"{name} belongs to a GroupNorm with num_groups={owner.num_groups}; expected a "
            "multiple of it to "
            f"keep, got {owner.num_channels} channels"
        )
