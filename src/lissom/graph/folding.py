"""Which batch normalizations can be taken into the layer before them: seen, then tried out."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from lissom.errors import ModelError, UnsupportedLayer
from lissom.graph.observe import observe
from lissom.graph.trace import at_batch, private_copy, undisturbed
from lissom.plan.fold import FoldBatchNorm, fold_values

_BATCH = 2
# Largest difference of an output, relative to the largest output: rounding stays far below it, and
# a layer that something else reads as well lies far above.
_TOLERANCES = {torch.float64: 1e-7, torch.float32: 1e-4}
_LAYERS = (nn.Conv2d, nn.Linear)


def foldable(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> dict[str, str]:
    """Find the layers that can take in the batch normalization behind them.

    A normalization that reads the very output of a layer is a candidate, if each of them runs once
    and no other module has the layer's weight. Candidates are then folded on a copy, in double
    precision where the network runs in it, with normalizations moved away from doing nothing, and
    kept if all outputs on random inputs stay what they were: whatever else reads the layer's output
    would show.

    Args:
        model: Any network; it is looked at in eval mode and not changed.
        example_inputs: What it is called with, with a batch axis first; of floating point inputs
            only shapes matter.

    Returns:
        Layer (``Conv2d`` or ``Linear``) -> normalization, in the order in which they run.

    Raises:
        ModelError: The network can't be copied, or does not run on the inputs.
    """
    private = private_copy(model)
    inputs = at_batch(example_inputs, _BATCH)
    pairs = _candidates(private, inputs)
    if not pairs:
        return {}
    bench = _bench(private, inputs)
    if bench.agrees(pairs):
        return pairs
    return {layer: norm for layer, norm in pairs.items() if bench.agrees({layer: norm})}


class _Bench:
    """A network with lively normalizations, random inputs, and what it makes of them."""

    def __init__(self, model: nn.Module, inputs: tuple[Tensor, ...], dtype: torch.dtype) -> None:
        self._model = private_copy(model).to(dtype)
        self._tolerance = _TOLERANCES[dtype]
        with undisturbed():
            torch.manual_seed(0)
            self._inputs = tuple(
                torch.randn_like(x, dtype=dtype) if x.is_floating_point() else x for x in inputs
            )
            for module in self._model.modules():
                if isinstance(module, _BatchNorm) and module.running_var is not None:
                    _enliven(module)
        self._expected = self._outputs(self._model)

    def agrees(self, pairs: Mapping[str, str]) -> bool:
        """Whether the network with these pairs folded computes the same."""
        folded = copy.deepcopy(self._model)
        try:
            for layer, norm in pairs.items():
                values = fold_values(folded, layer, norm)
                FoldBatchNorm(layer, norm).apply(folded)
                folded.load_state_dict(values, strict=False)
        except UnsupportedLayer:
            return False
        found = self._outputs(folded)
        return len(found) == len(self._expected) and all(
            self._close(*pair) for pair in zip(found, self._expected, strict=True)
        )

    def _outputs(self, model: nn.Module) -> list[Any]:
        outputs = observe(model, self._inputs).outputs
        return [x for x in pytree.tree_leaves(outputs) if isinstance(x, Tensor)]

    def _close(self, found: Tensor, expected: Tensor) -> bool:
        if found.shape != expected.shape:
            return False
        if not expected.numel() or not expected.is_floating_point():
            return torch.equal(found, expected)
        scale = float(expected.abs().max())
        return bool(((found - expected).abs() <= self._tolerance * scale).all())


def _bench(model: nn.Module, inputs: tuple[Tensor, ...]) -> _Bench:
    """Work in double precision, unless the network's code makes tensors of another type."""
    try:
        return _Bench(model, inputs, torch.float64)
    except ModelError:
        return _Bench(model, inputs, torch.float32)


def _enliven(norm: _BatchNorm) -> None:
    """Keep the order of magnitude, but let no channel be zero or pass as it is."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        return
    with torch.no_grad():
        mean.add_(variance.sqrt() * torch.randn_like(mean))
        variance.mul_(torch.rand_like(variance) + 0.5)
        if norm.weight is not None:
            norm.weight.copy_(norm.weight.abs().clamp_min(0.25) * (torch.rand_like(mean) + 0.5))
        if norm.bias is not None:
            norm.bias.add_(torch.randn_like(mean))


class _Handovers:
    """Which normalization was given which layer's output, and how often each of them ran."""

    def __init__(self) -> None:
        self._made: dict[int, str] = {}
        self._kept: list[Tensor] = []  # so that no other tensor gets the identity of an output
        self._pairs: dict[str, str] = {}
        self._calls: Counter[str] = Counter()

    def layer_ran(self, name: str, output: Any) -> None:
        """Remember what a layer made."""
        self._calls[name] += 1
        self._kept.append(output)
        self._made[id(output)] = name

    def norm_runs(self, name: str, given: tuple[Any, ...]) -> None:
        """Look up who made what a normalization is given."""
        self._calls[name] += 1
        layer = self._made.get(id(given[0])) if given else None
        if layer is not None:
            self._pairs[layer] = name

    def pairs(self) -> dict[str, str]:
        """Give layer -> normalization where both ran once."""
        return {
            layer: norm
            for layer, norm in self._pairs.items()
            if self._calls[layer] == self._calls[norm] == 1
        }


def _candidates(model: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, str]:
    """Give layer -> normalization where one hands its output to the other."""
    seen = _Handovers()
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            handles.append(
                module.register_forward_pre_hook(lambda _, given, n=name: seen.norm_runs(n, given))
            )
        elif isinstance(module, _LAYERS) and not _shared(model, module):
            handles.append(
                module.register_forward_hook(lambda _, __, out, n=name: seen.layer_ran(n, out))
            )
    try:
        observe(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen.pairs()


def _shared(model: nn.Module, layer: nn.Module) -> bool:
    """Whether another module has one of a layer's tensors."""
    own = {id(tensor) for tensor in layer.parameters()}
    return any(
        id(tensor) in own
        for module in model.modules()
        if module is not layer
        for tensor in module._parameters.values()
    )
