"""From trained quantizers to the network that the file holds, and to the file."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from lissom.errors import BudgetError
from lissom.extension import ModelView
from lissom.graph.folding import foldable
from lissom.methods.wish import Wish
from lissom.packed.network import packed_network
from lissom.packed.writer import PackedFile
from lissom.plan.build import apply_values, build
from lissom.plan.plan import Plan
from lissom.quantization.final_form import FinalForm, final_form
from lissom.quantization.levelled import Levelled
from lissom.quantization.steering import FileSize
from lissom.quantization.trim import Trimmable, trimmed, trimmed_while


class Forming:
    """Gives the network's final form, and the file that it would be.

    Attributes:
        layers: Those that get levels.
        folds: Layer -> batch norm that goes into it.
    """

    def __init__(self, view: ModelView, layers: tuple[str, ...]) -> None:
        """Look for batch norms to fold.

        Args:
            view: Its network is copied.
            layers: Those that get levels.
        """
        self.layers = layers
        found = foldable(view.model, view.example_inputs)
        self.folds = {layer: norm for layer, norm in found.items() if layer in layers}
        self._base = view.base or Plan.starting_from(view.model)
        self._later = view.later or Plan(())
        self._plain = copy.deepcopy(view.model)
        self._inputs = view.task.inputs(next(iter(view.data.calibration)))

    def of(self, relaxed: nn.Module, levels: Mapping[str, Levelled]) -> FinalForm:
        """Give the final form of a network with these levels.

        Args:
            relaxed: The network, with quantizers or without.
            levels: For its quantized layers.
        """
        # A copy of a network with quantizers shares their classes: taking them off the copy would
        # break the network.
        theirs = relaxed.state_dict()
        for name, tensor in self._plain.state_dict().items():
            if name in theirs:
                tensor.copy_(theirs[name])
        return final_form(self._plain, levels, self.folds, inputs=self._inputs)

    def packed(self, form: FinalForm) -> PackedFile:
        """Give the file."""
        return packed_network(form.values, self._base + Plan(form.plan) + self._later)

    def weigh(self, relaxed: nn.Module, levels: Mapping[str, Levelled]) -> FileSize:
        """Give the bytes of the file that a network with these levels would be."""
        packed = self.packed(self.of(relaxed, levels))
        return FileSize(packed.level_bytes, len(packed.content) - packed.level_bytes)

    def wished(self, relaxed: nn.Module, levels: Mapping[str, Levelled], wish: Wish) -> FinalForm:
        """Give the final form that does what the budget asks.

        Raises:
            BudgetError: The file exceeds the limit even without any weight.
        """
        if wish.limit is not None:
            return self.within(relaxed, levels, wish.limit)
        return self.as_small_as(relaxed, levels, lambda network: wish.drop(network) <= wish.allowed)

    def built(self, form: FinalForm) -> nn.Module:
        """Give the network that the file describes."""
        network = build(self._plain, Plan(form.plan))
        apply_values(network, form.values)
        return network.eval()

    def as_small_as(
        self,
        relaxed: nn.Module,
        levels: Mapping[str, Levelled],
        bearable: Callable[[nn.Module], bool],
    ) -> FinalForm:
        """Give the final form with the cheapest levels whose network is bearable."""

        def formed(chosen: Mapping[str, Tensor]) -> FinalForm:
            given = {name: Levelled(q, levels[name].step) for name, q in chosen.items()}
            return self.of(relaxed, given)

        tensors = _trimmable(levels)
        return formed(trimmed_while(tensors, lambda chosen: bearable(self.built(formed(chosen)))))

    def within(self, relaxed: nn.Module, levels: Mapping[str, Levelled], limit: int) -> FinalForm:
        """Give the final form whose file has at most ``limit`` bytes, trimming where it must.

        Scales and biases trained on after the levels were held, so that the file may have grown by
        a few bytes.

        Raises:
            BudgetError: The file exceeds the limit even without any weight.
        """
        tensors = _trimmable(levels)

        def formed(chosen: Mapping[str, Tensor]) -> FinalForm:
            return self.of(relaxed, {n: Levelled(q, levels[n].step) for n, q in chosen.items()})

        form = formed(
            trimmed(tensors, limit, lambda chosen: len(self.packed(formed(chosen)).content))
        )
        size = len(self.packed(form).content)
        if size > limit:
            raise BudgetError(
                f"budget: size: the file takes {size:,} bytes without any weight, above {limit:,}; "
                "allow more, or ignore fewer layers"
            )
        return form


def _trimmable(levels: Mapping[str, Levelled]) -> dict[str, Trimmable]:
    """Give levels as stand-ins of what they were trained from, which is gone by now."""
    return {
        name: Trimmable(one.weight, one.levels, one.step, _per_energy(one.weight))
        for name, one in levels.items()
    }


def _per_energy(weight: Tensor) -> Tensor:
    """Give what makes squared errors relative: a batch norm may undo any scale of a layer."""
    return 1 / weight.square().sum().clamp_min(1e-20)
