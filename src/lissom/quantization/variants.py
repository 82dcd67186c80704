"""Ablations: what the method is compared with, in the same training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lissom.quantization.dead_zone import DeadZone
from lissom.quantization.levels import SURROGATE_WIDTH
from lissom.quantization.network import QuantizedNetwork
from lissom.quantization.rate import binary_entropy_bits

PRICES = ("coder", "binary_entropy")
ORDERS = ("joint", "prune_then_quantize")
ALLOCATIONS = ("learned", "uniform")

_HALVINGS = 14
_SHARES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # of the largest weight that levels reach to
_TURN = 0.45  # of the training: from masks to levels
_LEAST_DEAD = 1e-4


class BinaryEntropyNetwork(QuantizedNetwork):
    """Charges N (d b + H2(d)): b bits per non-zero weight, and an ideal mask.

    d, the density, has a gradient through the dead zone's surrogate; b = 1 + log2 q_max.

    Source:
        Yao et al., Chinese J. Sci. Instrum. 44(5), 2023 (abstract); our reading.
    """

    def bits(self) -> Tensor:
        """Give the price of all levels, in bits."""
        return torch.stack([_binary_entropy(zone, weight) for _, zone, weight in self]).sum()


class PrunedFirstNetwork(QuantizedNetwork):
    """Learns masks with the other weights as they are, then levels with the masks as they are."""

    def __init__(self, model: nn.Module, zones: Mapping[str, DeadZone]) -> None:
        """Take zones that are attached already."""
        super().__init__(model, zones)
        for zone in zones.values():
            zone.rounds = False

    def advance(self, progress: float) -> bool:
        """Go from masks to levels when it is time."""
        due = progress >= _TURN and not self._rounds
        if due:
            for _, zone, weight in self:
                zone.keep_mask(weight)
        return due

    def state_dict(self) -> dict[str, Tensor]:
        """Give what is in no tensor of the network."""
        return super().state_dict() | {"rounds": torch.tensor(self._rounds)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from ``state_dict``'s output, and from a network that is restored already."""
        super().load_state_dict(state)
        for zone in self.zones.values():
            zone.rounds = bool(state["rounds"])

    @property
    def _rounds(self) -> bool:
        return all(zone.rounds for zone in self.zones.values())


class UniformNetwork(QuantizedNetwork):
    """Gives every layer the same density and the same bits; nothing but the weights is learned.

    The density is what the size is kept with. The step is that with the least squared error.
    """

    def __init__(self, model: nn.Module, zones: Mapping[str, DeadZone]) -> None:
        """Take zones that are attached already."""
        super().__init__(model, zones)
        for zone in zones.values():
            zone.requires_grad_(requires_grad=False)

    def parameters(self) -> list[nn.Parameter]:
        """Give nothing: steps and thresholds follow from density and bits."""
        return []

    def bits(self) -> Tensor:
        """Give no price: a uniform choice has none to make."""
        return torch.zeros(())

    def widen_to(self, bits: float, *, over: bool = False) -> float:
        """Choose the density that brings the levels' entropy to ``bits``.

        Args:
            bits: That are aimed at.
            over: Whether to end right above them.

        Returns:
            The density.
        """
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            self._set(middle)
            if self.entropy() > bits:
                high = middle
            else:
                low = middle
        end = high if over else low
        self._set(end)
        return end

    @torch.no_grad()
    def _set(self, density: float) -> None:
        for _, zone, weight in self:
            sizes = weight.detach().abs().flatten()
            kept = max(round(density * len(sizes)), 1)
            threshold = sizes.kthvalue(max(len(sizes) - kept, 1)).values
            step = _least_error(sizes[sizes > threshold], zone.largest.ceil())
            # The dead zone is at least half a step wide, so a low threshold bounds the step.
            step = torch.minimum(step, threshold / (0.5 + _LEAST_DEAD)).clamp_min(1e-8)
            zone.sigma.copy_((step / weight.std(correction=0).clamp_min(1e-8)).log())
            zone.tau.copy_((threshold / step - 0.5).clamp_min(_LEAST_DEAD).expm1().log())


def attach_variant(
    model: nn.Module, layers: Sequence[str], bits: int, *, price: str, order: str, allocation: str
) -> QuantizedNetwork:
    """Quantize the weights of some layers, the method's own way or an ablation's.

    Args:
        model: Changed in place.
        layers: Names of modules with a ``weight`` of their own.
        bits: Where each starts; where ``uniform`` stays.
        price: ``coder`` or ``binary_entropy``.
        order: ``joint`` or ``prune_then_quantize``.
        allocation: ``learned`` or ``uniform``.
    """
    kind: type[QuantizedNetwork] = QuantizedNetwork
    if allocation == "uniform":
        kind = UniformNetwork
    elif order == "prune_then_quantize":
        kind = PrunedFirstNetwork
    elif price == "binary_entropy":
        kind = BinaryEntropyNetwork
    return kind.attach(model, layers, bits)


def _binary_entropy(zone: DeadZone, weight: Tensor) -> Tensor:
    threshold = zone.threshold(weight)
    width = SURROGATE_WIDTH * threshold.detach()
    kept = torch.sigmoid((weight.abs() - threshold) / width)
    return binary_entropy_bits(kept.mean(), 1 + zone.largest.log2(), weight.numel())


def _least_error(sizes: Tensor, largest: Tensor) -> Tensor:
    """Give the step of ``largest`` levels with the least squared error on some magnitudes."""
    if not sizes.numel():
        return largest.new_tensor(math.inf)
    steps = sizes.max() / largest * torch.tensor(_SHARES, device=sizes.device)
    levels = (sizes[None] / steps[:, None]).round().clamp_min(1).minimum(largest)
    errors = (sizes[None] - steps[:, None] * levels).square().sum(1)
    return steps[errors.argmin()]
