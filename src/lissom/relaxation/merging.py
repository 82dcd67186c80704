"""Pruning and merging: cut what has vanished, merge what is cheaper as one layer.

The three steps go on until nothing changes: a dead column takes its filter with it, a dead channel
the inputs of its readers, which may leave other columns without any weight. All of it leaves the
function as it is, padded borders included, except a channel whose filters alone have vanished: a
constant is left, which ``lissom.relaxation.constants`` folds, exactly but for padded borders.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lissom.graph.cut import keep_channels
from lissom.graph.layers import ChannelGroup, ModelGraph, Role
from lissom.lowrank.families import family_named
from lissom.plan.keep_channels import AxisCut, KeepChannels
from lissom.plan.merge import Merge, merge_values
from lissom.plan.plan import Plan
from lissom.plan.surgery import find_tensor, slice_axis
from lissom.relaxation.block import CompressedAwareBlock, relaxed_tensor
from lissom.relaxation.columns import Columns
from lissom.relaxation.constants import fold_constants
from lissom.relaxation.rows import Rows
from lissom.relaxation.support import Support
from lissom.search.price import Configuration, LowRank

Pays = Callable[[str, int, Mapping[str, tuple[int, ...]]], bool]


@dataclass(frozen=True, slots=True)
class Pair:
    """What became of one relaxed layer.

    Attributes:
        layer: Its name.
        rank: Columns left.
        full: Columns at the start.
        merged: Whether the pair became one layer again.
        family: ``channel_svd`` or ``spatial_svd``.
    """

    layer: str
    rank: int
    full: int
    merged: bool
    family: str = "channel_svd"


@dataclass(frozen=True, slots=True)
class Hardened:
    """The network that is left.

    Attributes:
        plan: Decisions over the network before it was relaxed.
        configuration: The same, for a pricer.
        values: All of its state-dict entries.
        pairs: Per relaxed layer what became of it.
        removed: Per channel group how many channels went.
        inexact: Layers whose padded borders compute something else than before.
    """

    plan: Plan
    configuration: Configuration
    values: Mapping[str, Tensor]
    pairs: tuple[Pair, ...]
    removed: Mapping[str, int]
    inexact: tuple[str, ...] = ()


def prune_and_merge(
    relaxed: nn.Module,
    graph: ModelGraph,
    columns: Mapping[str, Columns],
    rows: Mapping[str, Rows],
    pays: Pays,
    example_inputs: tuple[Tensor, ...],
) -> Hardened:
    """Cut dead columns and channels out of a relaxed network and merge pairs.

    Args:
        relaxed: Not changed.
        graph: Of the network before it was relaxed.
        columns: Per relaxed layer its columns.
        rows: Per channel group that may shrink its channels.
        example_inputs: Inputs of any batch size, to see what dead channels leave.
        pays: Says, for a layer, a rank and the kept channels of all groups, whether the pair is to
            stay two layers.
    """
    groups = {group.name: group for group in graph.groups}
    network = copy.deepcopy(relaxed).eval()
    start, inexact = _vanished(network, groups, rows, example_inputs)
    live = _fixed_point(relaxed, groups, columns, start)
    kept = {name: _indices(mask) for name, mask in live.rows.items() if not bool(mask.all())}
    cuts = keep_channels([(groups[name], channels) for name, channels in kept.items()])
    for cut in cuts:
        _renamed(cut, network).apply(network)
    for layer, mask in live.columns.items():
        _slice_rank(network, layer, _indices(mask))
    pairs = tuple(
        _pair(network, layer, len(mask), lambda layer, rank: pays(layer, rank, kept))
        for layer, mask in live.columns.items()
    )
    merged = [pair.layer for pair in pairs if pair.merged]
    plan = Plan(
        (
            *cuts,
            *(family_named(pair.family).decision(pair.layer, (pair.rank,)) for pair in pairs),
            *(Merge(layer) for layer in merged),
        )
    )
    ranks = {p.layer: LowRank(p.family, (p.rank,)) for p in pairs if not p.merged}
    removed = {name: groups[name].channels - len(channels) for name, channels in kept.items()}
    values = _values(network, live.columns, merged)
    return Hardened(plan, Configuration(kept, ranks), values, pairs, removed, inexact)


def _pair(network: nn.Module, layer: str, full: int, pays: Callable[[str, int], bool]) -> Pair:
    """Say what becomes of a block that has been cut."""
    block = network.get_submodule(layer)
    assert isinstance(block, CompressedAwareBlock)
    merged = block.rank > block.highest or not pays(layer, block.rank)
    return Pair(layer, min(block.rank, block.highest), full, merged, block.family)


def _values(
    network: nn.Module, blocks: Mapping[str, Tensor], merged: list[str]
) -> dict[str, Tensor]:
    for layer in blocks:
        network.get_submodule(layer).__class__ = nn.Sequential
    products = {name: v for layer in merged for name, v in merge_values(network, layer).items()}
    together = {id(network.get_submodule(layer)) for layer in merged}
    gone = tuple(
        f"{name}.{part}."
        for name, module in network.named_modules(remove_duplicate=False)
        if id(module) in together
        for part in ("first", "last")
    )
    state = {n: v.detach() for n, v in network.state_dict().items() if not n.startswith(gone)}
    return {**state, **products}


def _vanished(
    network: nn.Module,
    groups: Mapping[str, ChannelGroup],
    rows: Mapping[str, Rows],
    example_inputs: tuple[Tensor, ...],
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Give the channels that have not vanished, and the readers whose borders are off after it.

    Constants that vanished channels leave are folded into ``network``, in place.
    """
    live = {name: _at_least_one(one.strengths().cpu() > 0) for name, one in rows.items()}
    loud = {name: mask for name, mask in live.items() if not rows[name].silent}
    folded = fold_constants(network, groups, loud, example_inputs)
    return {n: m | folded.kept.get(n, torch.zeros_like(m)) for n, m in live.items()}, folded.inexact


def _fixed_point(
    relaxed: nn.Module,
    groups: Mapping[str, ChannelGroup],
    columns: Mapping[str, Columns],
    rows: Mapping[str, Tensor],
) -> Support:
    """Give the columns and channels that something still depends on."""
    everything = {
        name: torch.ones(one.block.rank, dtype=torch.bool) for name, one in columns.items()
    }
    live = Support(everything, rows)
    while True:
        read = {
            name: _at_least_one(mask & _read(relaxed, groups[name], groups.values(), live))
            for name, mask in live.rows.items()
        }
        alive = {name: _alive(one, groups.values(), read) for name, one in columns.items()}
        if _same(live.rows, read) and _same(live.columns, alive):
            return live
        live = Support(alive, read)


def _alive(columns: Columns, groups: Iterable[ChannelGroup], rows: Mapping[str, Tensor]) -> Tensor:
    """Say of each column whether it has weight from live inputs and to live outputs."""
    block = columns.block
    basis, coefficients = block.basis.detach().cpu(), block.coefficients.detach().cpu()
    weight = f"{columns.layer}.weight"
    inputs = _live_entries(weight, 1, basis.shape[1], groups, rows)
    outputs = _live_entries(weight, 0, coefficients.shape[0], groups, rows)
    read = basis[:, inputs].flatten(1).ne(0).any(dim=1)
    written = coefficients[outputs].transpose(0, 1).flatten(1).ne(0).any(dim=1)
    return _at_least_one(read & written)


def _live_entries(
    tensor: str, axis: int, length: int, groups: Iterable[ChannelGroup], rows: Mapping[str, Tensor]
) -> Tensor:
    """Give a mask of the entries along an axis whose channels are alive."""
    live = torch.ones(length, dtype=torch.bool)
    for group in groups:
        for member in group.members:
            if (member.tensor, member.axis) == (tensor, axis) and group.name in rows:
                labels = torch.tensor(member.labels)
                live &= (labels < 0) | rows[group.name][labels.clamp_min(0)]
    return live


def _read(
    relaxed: nn.Module, group: ChannelGroup, groups: Iterable[ChannelGroup], live: Support
) -> Tensor:
    """Say of each channel of a group whether what is alive of some reader gives it weight."""
    read = torch.zeros(group.channels, dtype=torch.bool)
    for member in group.members:
        if member.role is not Role.INPUT or member.groups > 1:
            if member.role is Role.INPUT:
                return torch.ones_like(read)
            continue
        weight = find_tensor(relaxed, relaxed_tensor(relaxed, member.tensor, member.axis)).detach()
        layer = member.tensor.rpartition(".")[0]
        weights = weight.cpu().movedim(member.axis, 0)
        if layer in live.columns:
            weights = weights[:, live.columns[layer]]
        elif weights.dim() > 1:
            other = 1 - member.axis
            outputs = _live_entries(member.tensor, other, weights.shape[1], groups, live.rows)
            weights = weights[:, outputs]
        labels = torch.tensor(member.labels)
        weights = weights.flatten(1)
        read[labels[(labels >= 0) & weights.ne(0).any(dim=1)]] = True
    return read


def _renamed(cut: KeepChannels, network: nn.Module) -> KeepChannels:
    """Give the same cut over the tensors of the relaxed network."""
    cuts: list[AxisCut] = []
    for one in cut.cuts:
        axes = tuple((relaxed_tensor(network, name, axis), axis) for name, axis in one.axes)
        cuts.append(replace(one, axes=axes))
    return replace(cut, cuts=tuple(cuts))


def _slice_rank(network: nn.Module, layer: str, kept: tuple[int, ...]) -> None:
    block = network.get_submodule(layer)
    assert isinstance(block, CompressedAwareBlock)
    if len(kept) < block.rank:
        slice_axis(network, f"{layer}.first.weight", 0, kept)
        slice_axis(network, f"{layer}.last.weight", 1, kept)


def _at_least_one(mask: Tensor) -> Tensor:
    """Keep the first of a group that has vanished as a whole: a layer needs a channel."""
    if not bool(mask.any()):
        mask = mask.clone()
        mask[0] = True
    return mask


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(mask, other[name]) for name, mask in one.items())


def _indices(mask: Tensor) -> tuple[int, ...]:
    return tuple(torch.nonzero(mask).flatten().tolist())
