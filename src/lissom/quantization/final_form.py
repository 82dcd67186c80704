"""From a trained quantized network to the very values that its file holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from lissom.errors import ModelError, UnsupportedLayer
from lissom.plan.build import build
from lissom.plan.decision import Decision
from lissom.plan.fold import FoldBatchNorm, fold_values
from lissom.plan.plan import Plan
from lissom.plan.quantize import Quantize
from lissom.plan.surgery import submodule
from lissom.quantization.half import fill, halve
from lissom.quantization.levelled import Levelled
from lissom.quantization.short import fixed_point, short_float

_HALF = 10  # explicit bits of float16's mantissa
_WITHIN = 0.99  # of a value, for a short one to stand for it
_SMALLEST = 2.0**-24  # above 0, of float16
_FAINT = 2.0**-12  # of a layer's largest scale: dead channels have less
_MEAN_OFF = 2.0**-8  # of a standard deviation: how far a running mean may be moved


@dataclass(frozen=True, slots=True)
class VectorSettings:
    """How finely the values that are no levels are kept.

    Attributes:
        scale_bits: Of the mantissa of a folded channel's scale, 0 to 10.
        step_bits: The same of a layer's only scale; its bias is on a grid of 2^-step_bits of the
            largest, or finer.
        bias_places: The bias of folded channels is on a grid of 2^-bias_places of their median
            spread, the normalization's |gamma|, or finer.
        tolerance: How far float16 may move an output, relative to the largest.
    """

    scale_bits: int = 5
    step_bits: int = 8
    bias_places: int = 5
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if not (0 <= self.scale_bits <= _HALF and 0 <= self.step_bits <= _HALF):
            raise ValueError(
                f"scale_bits={self.scale_bits}, step_bits={self.step_bits}; expected 0 to {_HALF}"
            )
        if not 0 <= self.bias_places <= 20 or not self.tolerance >= 0:
            raise ValueError(
                f"bias_places={self.bias_places}, tolerance={self.tolerance}; expected 0 to 20 and "
                "at least 0"
            )


@dataclass(frozen=True, slots=True)
class FinalForm:
    """What is left to do to a network, and what its tensors then hold.

    Attributes:
        plan: Folds first, then one ``Quantize`` per layer with levels.
        values: For every name of the new network's state dict.
    """

    plan: tuple[Decision, ...]
    values: dict[str, Tensor]


def final_form(
    model: nn.Module,
    levels: Mapping[str, Levelled],
    folds: Mapping[str, str],
    settings: VectorSettings | None = None,
    inputs: tuple[Tensor, ...] = (),
) -> FinalForm:
    """Fold, and round everything that is no level to what takes few bytes.

    A layer with levels and a normalization gets one scale per output channel, the short float
    nearest to step |gamma| / sqrt(var + eps); its sign goes into the levels. The bias then follows
    from the rounded scale, so that the channel's mean stays where it was. Without a normalization
    the layer keeps one scale. Normalizations that stay get float16 values.

    Args:
        model: As it was trained; weights of layers with levels are not read. Not changed.
        levels: By layer.
        folds: Layer -> normalization, as ``lissom.graph.folding.foldable`` finds them.
        settings: How finely.
        inputs: What the network is called with. Everything else that is floating point becomes
            float16 if no output moves more than the tolerance; without inputs it stays.

    Returns:
        Decisions and values for ``build`` and ``apply_values``.

    Raises:
        ModelError: A value is NaN or infinite: names the tensor.
        PlanError: A layer is missing.
        UnsupportedLayer: A layer can't be folded, or has no weight of its own.
        ValueError: Levels have another shape than the layer's weight.
    """
    settings = settings or VectorSettings()
    decisions: list[Decision] = [FoldBatchNorm(*pair) for pair in folds.items()]
    settled: dict[str, Tensor] = {}
    for layer in folds.keys() - levels.keys():
        settled |= fold_values(model, layer, folds[layer])
    exact: set[str] = set()
    for layer, found in levels.items():
        norm = folds.get(layer)
        form = _folded(model, layer, norm, found, settings) if norm else None
        form = form or _alone(model, layer, found, settings)
        settled |= form.values(layer)
        exact |= form.values(layer).keys()
        decisions.append(form.decision(layer, found))
    after = build(model, Plan(tuple(decisions)))
    for name, module in after.named_modules():
        if isinstance(module, _BatchNorm):
            settled |= _short_norm(name, module)
            exact |= _short_norm(name, module).keys()
    _check_finite(settled)
    fill(after, settled)
    if inputs:
        halve(after, exact, inputs, settings.tolerance)
    return FinalForm(tuple(decisions), _state(after))


@dataclass(frozen=True, slots=True)
class _Form:
    """A quantized layer: levels, one scale or one per output channel, and a bias or none."""

    levels: Tensor
    scale: Tensor
    bias: Tensor | None

    def values(self, layer: str) -> dict[str, Tensor]:
        scale = self.scale
        if scale.ndim:
            scale = scale.reshape(-1, *[1] * (self.levels.ndim - 1))
        found = {f"{layer}.weight": self.levels.to(torch.float32) * scale}
        return found if self.bias is None else found | {f"{layer}.bias": self.bias}

    def decision(self, layer: str, found: Levelled) -> Quantize:
        kept = Levelled(self.levels, found.step.cpu())
        return Quantize(layer, kept.bits, kept.nonzero, bool(self.scale.ndim))


def _folded(
    model: nn.Module, layer: str, norm: str, found: Levelled, settings: VectorSettings
) -> _Form:
    """Take a normalization into the scales, signs and bias of a layer."""
    exact = fold_values(model, layer, norm)[f"{layer}.bias"]
    module: Any = submodule(model, layer)
    batch_norm: Any = submodule(model, norm)
    if isinstance(module, _ConvNd) and module.transposed:
        raise UnsupportedLayer(
            f"{layer}: the scales of a quantized transposed convolution are not one per output, so "
            f"that {norm} can't be folded into it; leave it out of the folds"
        )
    levels, step = _checked(layer, module, found), found.step.cpu().double()
    mean, variance = _double(batch_norm.running_mean), _double(batch_norm.running_var)
    spread = torch.ones_like(mean) if batch_norm.weight is None else _double(batch_norm.weight)
    centre = torch.zeros_like(mean) if batch_norm.bias is None else _double(batch_norm.bias)
    offset = -mean if module.bias is None else _double(module.bias) - mean
    gain = spread * (variance + batch_norm.eps).rsqrt()
    scale = _scales(step * gain.abs(), settings.scale_bits)
    bias = centre + gain.sign() * scale.double() / step * offset
    empty = (levels == 0).flatten(1).all(1)
    silent = empty | (scale == 0)
    signs = torch.where(silent, 0, gain.sign()).to(torch.int32)
    return _Form(
        levels * signs.reshape(-1, *[1] * (levels.ndim - 1)),
        _without_gaps(scale, silent, found.step),
        # The output of an empty channel is a constant, which the exact gain gives.
        _on_grid(
            torch.where(empty, exact.cpu().double(), bias),
            _typical(spread) * 2.0**-settings.bias_places,
        ),
    )


def _scales(exact: Tensor, bits: int) -> Tensor:
    """Round scales to short floats, where their range holds all that matter beside the largest."""
    short = short_float(exact, bits)
    held = short >= (1 - 2.0**-bits) * exact
    faint = exact <= _FAINT * exact.max()
    return short if bool((held | faint).all()) else exact.float()


def _alone(model: nn.Module, layer: str, found: Levelled, settings: VectorSettings) -> _Form:
    """Keep a layer's one scale."""
    module = submodule(model, layer)
    levels = _checked(layer, module, found)
    scale = short_float(found.step.cpu(), settings.step_bits)
    if not _WITHIN * scale < found.step.cpu() < scale / _WITHIN:  # beyond what float16 holds
        scale = found.step.cpu()
    bias = getattr(module, "bias", None)
    if bias is not None:
        bias = _double(bias)
        bias = _on_grid(bias, float(bias.abs().max()) * 2.0**-settings.step_bits)
    return _Form(levels, scale, bias)


def _checked(layer: str, module: nn.Module, found: Levelled) -> Tensor:
    weight = module._parameters.get("weight")
    if weight is None:
        raise UnsupportedLayer(
            f"{layer}: levels are for a layer with a weight of its own, got "
            f"{type(module).__qualname__}; harden it first"
        )
    if weight.shape != found.levels.shape:
        raise ValueError(
            f"{layer}: levels of shape {tuple(found.levels.shape)} for a weight of shape "
            f"{tuple(weight.shape)}; expected the same"
        )
    return found.levels.detach().cpu()


def _without_gaps(scale: Tensor, silent: Tensor, step: Tensor) -> Tensor:
    """Give channels without levels the scale before them: it costs least, and says nothing."""
    if silent.all():
        return torch.full_like(scale, float(short_float(step.cpu(), 0).clamp_min(_SMALLEST)))
    heard = torch.where(silent, 0, torch.arange(len(scale)))
    latest = heard.cummax(0).values
    latest[: int(torch.argmin(silent.int()))] = torch.argmin(silent.int())
    return scale[latest]


def _typical(spread: Tensor) -> float:
    """Give the median magnitude of what is not 0."""
    sizes = spread[spread != 0].abs()
    return float(sizes.median()) if len(sizes) else 0.0


def _on_grid(values: Tensor, step: float) -> Tensor:
    """Round to multiples of the power of two below ``step``, in at most 16 bits."""
    largest = float(values.abs().max()) if values.numel() else 0.0
    step = max(step, math.ldexp(largest, -15), _SMALLEST)
    return fixed_point(values, math.ldexp(0.5, math.frexp(step)[1]))


def _short_norm(name: str, norm: _BatchNorm) -> dict[str, Tensor]:
    """Give the vectors of a normalization as float16 holds them; no variance becomes 0."""
    found = {
        f"{name}.{leaf}": _short(value)
        for leaf in ("weight", "bias", "running_mean", "running_var")
        if (value := getattr(norm, leaf)) is not None
    }
    variance, mean = f"{name}.running_var", f"{name}.running_mean"
    if mean in found and norm.running_mean is not None and norm.running_var is not None:
        exact = norm.running_mean.detach().cpu()
        deviation = (norm.running_var.detach().cpu() + norm.eps).sqrt()
        if bool(((found[mean] - exact).abs() > _MEAN_OFF * deviation).any()):
            found[mean] = exact
    if variance in found:
        found[variance] = found[variance].clamp_min(_SMALLEST)
    return found


def _short(values: Tensor) -> Tensor:
    """Round to float16, where its range holds all of them."""
    values = values.detach().cpu()
    short = short_float(values, _HALF)
    return short if bool((short.abs() >= _WITHIN * values.abs() - _SMALLEST).all()) else values


def _check_finite(values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        if not bool(torch.isfinite(value).all()):
            raise ModelError(
                f"{name}: would be NaN or infinite, expected numbers: a weight or a batch norm "
                "diverged; train with a smaller learning rate, or start from sound weights"
            )


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Give each tensor once, under the first of its names, as files have them."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) not in seen:
            seen.add(id(value))
            found[name] = value.detach().clone()
    return found


def _double(values: Tensor) -> Tensor:
    return values.detach().cpu().double()
