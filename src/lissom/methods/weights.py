"""The values of a compressed network: what is kept, rebuilt and factorized."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lissom.graph.cut import keep_channels
from lissom.graph.layers import ChannelGroup, Member, ModelGraph, Role
from lissom.lowrank.families import family_named
from lissom.methods.output_error import OutputError
from lissom.plan.build import apply_values, build
from lissom.plan.decision import Decision
from lissom.plan.plan import Plan
from lissom.pruning.reconstruct import reconstruct
from lissom.search.price import Configuration, LowRank

Kept = Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True)
class WeightMath:
    """Computes new weights from the original ones; the network itself stays as it is.

    Attributes:
        model: The original network.
        graph: What it is made of.
        covariances: Per layer E[x x^T] of its inputs; layers without one are sliced, not rebuilt.
        whiten: Whether factors minimise the error of the output (with the covariance) or of the
            weight.
        rebuild: Whether what remains after cutting inputs is rebuilt in closed form.
    """

    model: nn.Module
    graph: ModelGraph
    covariances: Mapping[str, Tensor]
    whiten: bool = True
    rebuild: bool = True
    _judges: dict[str, OutputError] = field(default_factory=dict, repr=False, compare=False)
    _errors: dict[tuple[str, LowRank], float] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def seen(self) -> str:
        """Say what inputs the covariances are of, in digits that no number of threads changes."""
        traces = (f"{float(one.diagonal().sum()):.3g}" for one in self.covariances.values())
        return hashlib.sha256(" ".join(traces).encode()).hexdigest()[:12]

    @property
    def recipe(self) -> str:
        """Say what the new weights follow from, beside the network, for the cache."""
        return f"whiten={self.whiten} rebuild={self.rebuild} {self.seen}"

    def weight(self, layer: str) -> Tensor:
        """Give a layer's original weight."""
        weight = self.model.get_submodule(layer).weight
        assert isinstance(weight, Tensor)
        return weight.detach()

    def pruned(self, kept: Kept) -> dict[str, Tensor]:
        """Give the dense weights under which the uncut network computes what the cut one will.

        Columns that read removed channels are zero, the others rebuilt.

        Args:
            kept: Per cut group its kept channels.

        Returns:
            Weights of all consumers by state-dict name, in their original shapes.
        """
        weights = {}
        for name, mask in self._input_masks(kept).items():
            tensor, axis, groups = name
            weights[tensor] = self._without_inputs(tensor, axis, groups, mask)
        return weights

    def factors(
        self, layer: str, low_rank: LowRank, weight: Tensor, inputs: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        """Factorize a weight.

        Args:
            layer: The layer; its covariance is used.
            low_rank: Family and ranks.
            weight: What is factorized: the layer's weight, or what pruning left of it.
            inputs: The input channels that ``weight`` still has; None: all.

        Returns:
            The weights of the parts that the decision builds, by their state-dict names.
        """
        covariance = self._covariance(layer, inputs) if self.whiten else None
        return family_named(low_rank.family).factors(weight, low_rank.ranks, covariance)

    def whitening(self, layer: str) -> Tensor | None:
        """Give what the factors of a layer are made for; None: for the weight's own error."""
        return self.covariances.get(layer) if self.whiten else None

    def decomposed(self, layer: str, low_rank: LowRank) -> Tensor:
        """Give the dense weight, in the original shape, that the factors multiply to."""
        factors = self.factors(layer, low_rank, self.weight(layer))
        return family_named(low_rank.family).compose(factors)

    def output_error(self, layer: str, weight: Tensor) -> float:
        """Give E|dW x|^2 / E|W x|^2 of a changed weight; without a covariance, of white inputs."""
        if layer not in self._judges:  # one is kept: layers are judged one after another
            self._judges.clear()
            covariance = self.covariances.get(layer)
            self._judges[layer] = OutputError.of(self.weight(layer), covariance)
        return self._judges[layer](weight)

    def decomposition_error(self, layer: str, low_rank: LowRank) -> float:
        """Give the output error of a decomposition, factorizing where that was not done before."""
        if (layer, low_rank) not in self._errors:
            self.judged(layer, low_rank)
        return self._errors[layer, low_rank]

    def judged(self, layer: str, low_rank: LowRank) -> tuple[Tensor, float]:
        """Give what ``decomposed`` does, and its output error."""
        dense = self.decomposed(layer, low_rank)
        error = self._errors[layer, low_rank] = self.output_error(layer, dense)
        return dense, error

    def realise(
        self, configuration: Configuration
    ) -> tuple[tuple[Decision, ...], dict[str, Tensor]]:
        """Turn a configuration into decisions and the values of what is not merely sliced.

        Nothing else is done to what goes with a branch.

        Args:
            configuration: What is kept and which ranks are taken.

        Returns:
            The decisions in the order in which they are applied, and state-dict entries of the
            result.
        """
        groups = {group.name: group for group in self.graph.groups}
        gone = configuration.gone
        kept = {
            name: channels
            for name, channels in configuration.kept.items()
            if len(channels) < groups[name].channels and not _inside(groups[name], gone)
        }
        cuts = keep_channels([(groups[name], channels) for name, channels in kept.items()])
        decisions: list[Decision] = list(cuts)
        values = self._sliced(kept)
        outputs, inputs = self._kept_axes(kept)
        for layer, low_rank in configuration.low_rank.items():
            if layer in gone:
                continue
            name = f"{layer}.weight"
            weight = values.pop(name, None)
            if weight is None:  # not rebuilt: merely sliced
                weight = _select(self.weight(layer), 0, outputs.get(name))
                weight = _select(weight, 1, inputs.get(name))
            parts = self.factors(layer, low_rank, weight, inputs.get(name))
            values.update({f"{layer}.{child}": part for child, part in parts.items()})
            bias = self.model.get_submodule(layer).bias
            if isinstance(bias, Tensor):
                values[f"{layer}.last.bias"] = _select(bias.detach(), 0, outputs.get(name))
            decisions.append(family_named(low_rank.family).decision(layer, low_rank.ranks))
        decisions.extend(branch.decision for branch in configuration.dropped)
        return tuple(decisions), {
            n: v for n, v in values.items() if n.rpartition(".")[0] not in gone
        }

    def built(self, configuration: Configuration) -> nn.Module:
        """Give the network that a configuration leads to, in eval mode; untouched values stay."""
        decisions, values = self.realise(configuration)
        model = build(self.model, Plan(decisions))
        apply_values(model, {**model.state_dict(), **values})
        return model.eval()

    def _sliced(self, kept: Kept) -> dict[str, Tensor]:
        """Give the rebuilt consumer weights in the shapes that they have after the cuts."""
        outputs, inputs = self._kept_axes(kept)
        values = {}
        for tensor, dense in self.pruned(kept).items():
            if tensor not in inputs or not self._can_rebuild(tensor):
                continue  # slicing alone gives the values
            values[tensor] = _select(_select(dense, 1, inputs[tensor]), 0, outputs.get(tensor))
        return values

    def _kept_axes(self, kept: Kept) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
        """Give, by weight, the kept indices of axis 0 and of an ungrouped input axis 1."""
        outputs: dict[str, NDArray[np.bool_]] = {}
        for group, member in self._members(kept):
            if member.role is Role.OUTPUT and member.axis == 0:
                mask = outputs.setdefault(member.tensor, np.ones(len(member.labels), dtype=bool))
                mask &= _alive(group, member, kept[group.name])
        inputs = {
            tensor: mask
            for (tensor, axis, groups), mask in self._input_masks(kept).items()
            if axis == 1 and groups == 1
        }
        return (
            {name: np.flatnonzero(mask).tolist() for name, mask in outputs.items()},
            {name: np.flatnonzero(mask).tolist() for name, mask in inputs.items()},
        )

    def _input_masks(self, kept: Kept) -> dict[tuple[str, int, int], NDArray[np.bool_]]:
        masks: dict[tuple[str, int, int], NDArray[np.bool_]] = {}
        for group, member in self._members(kept):
            if member.role is not Role.INPUT:
                continue
            key = (member.tensor, member.axis, member.groups)
            mask = masks.setdefault(key, np.ones(len(member.labels), dtype=bool))
            mask &= _alive(group, member, kept[group.name])
        return masks

    def _members(self, kept: Kept) -> list[tuple[ChannelGroup, Member]]:
        return [
            (group, member)
            for group in self.graph.groups
            if group.name in kept
            for member in group.members
        ]

    def _without_inputs(
        self, tensor: str, axis: int, groups: int, mask: NDArray[np.bool_]
    ) -> Tensor:
        weight = self.model.get_parameter(tensor).detach()
        alive = np.flatnonzero(mask)
        if groups == 1 and axis == 1 and self._can_rebuild(tensor) and len(alive) < len(mask):
            layer = tensor.rpartition(".")[0]
            dense = torch.zeros_like(weight)
            dense[:, alive] = reconstruct(weight, alive.tolist(), self.covariances[layer])
            return dense
        on = torch.from_numpy(mask).to(weight.device, weight.dtype)
        if groups == 1:
            return weight * on.reshape((1,) * axis + (-1,) + (1,) * (weight.dim() - axis - 1))
        # Axis 1 of a grouped convolution: group j of the rows reads part j of the input channels.
        rows = weight.shape[0] // groups
        per_row = on.reshape(groups, 1, -1).expand(groups, rows, -1).reshape(weight.shape[:2])
        return weight * per_row.reshape(*per_row.shape, *(1,) * (weight.dim() - 2))

    def _can_rebuild(self, tensor: str) -> bool:
        layer, _, leaf = tensor.rpartition(".")
        return self.rebuild and leaf == "weight" and layer in self.covariances

    def _covariance(self, layer: str, inputs: Sequence[int] | None) -> Tensor | None:
        covariance = self.covariances.get(layer)
        if covariance is None or inputs is None:
            return covariance
        channels = self.weight(layer).shape[1]
        positions = covariance.shape[0] // channels
        index = torch.as_tensor(inputs)[:, None] * positions + torch.arange(positions)
        index = index.reshape(-1).to(covariance.device)
        return covariance[index][:, index]


def _inside(group: ChannelGroup, layers: Collection[str]) -> bool:
    """Whether all that touches a group's channels lies in these layers."""
    return {*group.producers, *group.consumers} <= set(layers)


def plain_layers(model: nn.Module, graph: ModelGraph) -> list[str]:
    """Name the layers whose output is their weight times their input: exactly Conv2d or Linear.

    A weight that several layers share is left out: it can't be fitted to the inputs of one.
    """
    holders = Counter(id(p) for module in model.modules() for p in module._parameters.values())
    names = []
    for layer in graph.layers:
        module = model.get_submodule(layer.name) if layer.name else model
        plain = type(module) in (nn.Conv2d, nn.Linear) and layer.calls > 0
        weight = module._parameters.get("weight")
        if plain and holders[id(weight)] == 1 and getattr(module, "groups", 1) == 1:
            names.append(layer.name)
    return names


def _alive(group: ChannelGroup, member: Member, kept: Sequence[int]) -> NDArray[np.bool_]:
    """Tell for each index of the member's axis whether this group lets it stay."""
    labels = np.asarray(member.labels)
    mask = np.zeros(group.channels + 1, dtype=bool)
    mask[list(kept)] = True
    mask[-1] = True  # label -1: another group's index
    return mask[labels]


def _select(tensor: Tensor, axis: int, indices: Sequence[int] | None) -> Tensor:
    if indices is None:
        return tensor
    return tensor.index_select(axis, torch.as_tensor(indices, device=tensor.device))
