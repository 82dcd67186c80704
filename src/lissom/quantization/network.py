"""A network whose weights pass through quantizers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lissom.errors import LissomError
from lissom.quantization.dead_zone import DeadZone
from lissom.quantization.levelled import Levelled

_WIDEST = math.log(4)
_HALVINGS = 12


class QuantizedNetwork:
    """Puts a ``DeadZone`` in front of weights, and speaks for all of them.

    Attributes:
        model: The network, changed in place by ``attach``.
        zones: By layer.
    """

    def __init__(self, model: nn.Module, zones: Mapping[str, DeadZone]) -> None:
        """Take zones that are attached already; ``attach`` makes them."""
        self.model, self.zones = model, dict(zones)
        self._weights = {name: original_weight(model, name) for name in zones}

    @classmethod
    def attach(
        cls, model: nn.Module, layers: Sequence[str], bits: int = 4, dead: float = 0.1
    ) -> Self:
        """Quantize the weights of some layers.

        Args:
            model: Changed in place.
            layers: Names of modules with a ``weight`` of their own.
            bits: Where each starts, 1 to 8.
            dead: t / s - 1/2 > 0 at the start.
        """
        zones = {}
        for name in layers:
            module = model.get_submodule(name)
            zones[name] = DeadZone(module.weight, bits, dead).to(module.weight.device)  # type: ignore[arg-type]
            parametrize.register_parametrization(module, "weight", zones[name])
        return cls(model, zones)

    def __iter__(self) -> Iterator[tuple[str, DeadZone, nn.Parameter]]:
        """Yield name, zone and the weight behind it."""
        for name, zone in self.zones.items():
            yield name, zone, self._weights[name]

    def parameters(self) -> list[nn.Parameter]:
        """Give steps, thresholds and ranges."""
        return [parameter for zone in self.zones.values() for parameter in zone.parameters()]

    def weights(self) -> dict[str, nn.Parameter]:
        """Give the weights behind the quantizers, by layer."""
        return dict(self._weights)

    def bits(self) -> Tensor:
        """Give the differentiable price of all levels, in bits."""
        return torch.stack([zone.bits(weight) for _, zone, weight in self]).sum()

    def entropy(self) -> float:
        """Give the entropy of each layer's magnitudes, with signs, all together, in bits."""
        return float(torch.stack([zone.entropy(weight) for _, zone, weight in self]).sum())

    def scale_steps(self, factor: float) -> None:
        """Multiply all steps, and with them all thresholds; ranges stay what they are."""
        for zone in self.zones.values():
            zone.sigma.data.add_(math.log(factor))
            zone.rho.data.sub_(math.log(factor))

    def widen_to(self, bits: float, *, over: bool = False) -> float:
        """Multiply all steps by one factor, so that the levels' entropy comes to ``bits``.

        The entropy is that of each layer's magnitudes, with signs, as of now; the price's code
        lengths stay as they are. It is a stair: weights gather at the borders of their levels.

        Args:
            bits: That are aimed at.
            over: Whether to end right above them, rather than at them or right below.

        Returns:
            The factor, between 1/4 and 4.
        """
        low, high, now = -_WIDEST, _WIDEST, 0.0
        before = abs(self.entropy() - bits)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            self.scale_steps(math.exp(middle - now))
            now = middle
            if self.entropy() > bits:
                low = middle
            else:
                high = middle
        end = low if over else high
        self.scale_steps(math.exp(end - now))
        if abs(self.entropy() - bits) > before and not (over and low > -_WIDEST):
            self.scale_steps(math.exp(-end))  # no factor helps: levels are at their most
            return 1.0
        return math.exp(end)

    def advance(self, progress: float) -> bool:  # noqa: ARG002  (for variants)
        """Go to the next part of the training when it is time.

        Args:
            progress: Share of the training that is done.

        Returns:
            Whether the function jumped.
        """
        return False

    def refresh(self, keep: float = 0.0) -> None:
        """Take all histograms anew, but for the share ``keep`` of the old code lengths."""
        for _, zone, weight in self:
            zone.refresh(weight, keep)

    def levelled(self) -> dict[str, Levelled]:
        """Give levels and steps as they are now.

        Raises:
            LissomError: A layer's weight or step is no number any more: names it.
        """
        for name, zone, weight in self:
            if not bool(torch.isfinite(zone.step(weight))):
                raise LissomError(
                    f"{name}: its weights or its step became NaN or infinite, expected numbers: "
                    "the training diverged; try a smaller rate_factor or learning_rate, or "
                    "clip_norm=1, and look for NaN in the data"
                )
        return {name: zone.levelled(weight) for name, zone, weight in self}

    def start_from(self, found: Mapping[str, Levelled]) -> None:
        """Begin at levels and steps that are known; weights move to where they have them."""
        for name, zone, weight in self:
            zone.start_from(weight, found[name])

    def hold(self, levels: Mapping[str, Tensor]) -> None:
        """Keep these levels from now on."""
        for name, zone, weight in self:
            zone.hold(weight, levels[name])

    @property
    def holds(self) -> bool:
        """Tell whether levels are kept."""
        return all(zone.holds for zone in self.zones.values())

    def state_dict(self) -> dict[str, Tensor]:
        """Give what is in no tensor of the network."""
        return {"holds": torch.tensor(self.holds)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from ``state_dict``'s output, and from a network that is restored already."""
        for zone in self.zones.values():
            zone.holds = bool(state["holds"])


def original_weight(model: nn.Module, layer: str) -> nn.Parameter:
    """Give the parameter behind the quantizer of a layer."""
    weight = model.get_submodule(layer).parametrizations.weight.original  # type: ignore[union-attr]
    assert isinstance(weight, nn.Parameter)
    return weight
