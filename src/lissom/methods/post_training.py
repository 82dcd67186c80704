"""Steps and levels without any training: GPTQ with a dead zone, bits where they do most good.

Frantar et al., ICLR 2023, arXiv:2210.17323; the dead zone, the price of a bit and the sharing of
bits among layers are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lissom.errors import BudgetError, ModelError
from lissom.extension import ModelView
from lissom.progress import meter
from lissom.quantization.allocate import Point, cheapest
from lissom.quantization.ladder import ELEMENTS, LARGEST, Quadratic, ladder
from lissom.quantization.levelled import Levelled
from lissom.sensitivity.measure import Candidate, measure
from lissom.sensitivity.statistics import input_covariances

_RATIO = 2**0.25  # between two steps
_RUNGS = 33  # eight octaves: from 127 levels to a step of twice the largest weight
_BISECTIONS = 5  # of one layer's step, between two rungs
_ENOUGH = 0.995  # of the bits asked for
_PROBE = 1.0  # step in deviations of the weight: some 2 bits each
_WIDEST = 2048  # inputs of a layer of which all pairs are looked at
_UNMEASURED = 1.0  # nat, for the loss of a layer's whole output


class PostTraining:
    """Chooses each layer's step and levels for a number of bits.

    A quantized layer harms g tr(dW C dW^T) / tr(W C W^T): its gain times the relative squared error
    of its output. Every layer is quantized at steps from 8 bits to all zeros, once; after that any
    number of bits is shared out within moments.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        covariances: Mapping[str, Tensor],
        gains: Mapping[str, float],
    ) -> None:
        """Quantize every layer at every step.

        Args:
            model: Network; only weights are read.
            layers: Names of the modules whose ``weight`` is quantized.
            covariances: C per layer, as ``measure_covariances`` gives it. A layer without one, and
                any but ungrouped convolutions and linear layers, counts as having independent
                inputs of equal energy.
            gains: g per layer, as ``measure_gains`` gives it; 1 for a layer without one.

        Raises:
            ModelError: A covariance is of another layer, or a weight is not finite.
        """
        self._quadratics: dict[str, Quadratic] = {}
        self._factors: dict[str, float] = {}
        self._points: dict[str, list[Point]] = {}
        self._levels: dict[str, list[Tensor | None]] = {}
        with meter("steps of every layer", len(layers)) as bar:
            for name in layers:
                quadratic = _quadratic(model, name, covariances)
                energy = quadratic.energy
                gain = gains.get(name, _UNMEASURED)
                self._quadratics[name] = quadratic
                self._factors[name] = gain / energy if energy > 0 else 0.0
                self._points[name], self._levels[name] = [], []
                self._add(name, _steps(quadratic.rows))
                bar.advance(1, name)

    def levels_for(self, bits: float) -> Mapping[str, Levelled]:
        """Choose for a number of bits.

        Args:
            bits: What all levels together may take by each layer's own zeroth-order code. It is an
                estimate: a caller asks again with what the real coder made of the result.

        Returns:
            Per layer its levels. The estimate is within 1 % below ``bits``, unless every layer has
            8 bits.

        Raises:
            BudgetError: Not even zeros everywhere take as little.
        """
        chosen = cheapest(self._points, bits)
        used = self._bits(chosen)
        if used > bits:
            raise BudgetError(
                f"post-training quantization: {bits:,.0f} bits for the levels; zeros everywhere "
                f"are estimated at {used:,.0f}; ask for a larger file"
            )
        if used < _ENOUGH * bits:
            self._fill(chosen, bits - used)
            chosen = cheapest(self._points, bits)
        return {
            name: Levelled(
                self._levels_at(name, index).to(torch.int32),
                torch.tensor(self._points[name][index].step, dtype=torch.float32),
            )
            for name, index in chosen.items()
        }

    @property
    def fewest_bits(self) -> float:
        """Give the least that ``levels_for`` can be asked for."""
        return sum(min(point.bits for point in points) for points in self._points.values())

    def _bits(self, chosen: Mapping[str, int]) -> float:
        return sum(self._points[name][index].bits for name, index in chosen.items())

    def _add(self, name: str, steps: Tensor) -> None:
        """Quantize one layer at further steps; the levels of a large one are found again later."""
        quadratic = self._quadratics[name]
        large = quadratic.rows.numel() > ELEMENTS
        for some in torch.split(steps, 1 if large else len(steps)):
            rungs = ladder(quadratic, some)
            harms = self._factors[name] * rungs.errors
            values = zip(rungs.steps.tolist(), rungs.bits.tolist(), harms.tolist(), strict=True)
            self._points[name] += [Point(*each) for each in values]
            self._levels[name] += [None] * len(some) if large else list(rungs.levels)

    def _levels_at(self, name: str, index: int) -> Tensor:
        kept = self._levels[name][index]
        if kept is not None:
            return kept
        step = torch.tensor([self._points[name][index].step], dtype=torch.float64)
        return ladder(self._quadratics[name], step).levels[0]

    def _fill(self, chosen: Mapping[str, int], left: float) -> None:
        """Add points of the layer with the most bits, towards the step where nothing is left."""
        finer = {
            name: self._points[name][index]
            for name, index in chosen.items()
            if index != 0  # the first rung is the finest
        }
        if not finer:
            return
        name = max(finer, key=lambda each: finer[each].bits)
        start = finer[name]
        fits, too_many = start.step, start.step / _RATIO
        for _ in range(_BISECTIONS):
            middle = (fits * too_many) ** 0.5
            self._add(name, torch.tensor([middle], dtype=torch.float64))
            if self._points[name][-1].bits - start.bits <= left:
                fits = middle
            else:
                too_many = middle


def measure_gains(
    view: ModelView,
    layers: Sequence[str],
    images: int,
    covariances: Mapping[str, Tensor] | None = None,
) -> Mapping[str, float]:
    """Measure what a layer's output error does to the network's output, without labels.

    Each layer alone is quantized to some 2 bits a weight; the distance to the original's outputs is
    divided by the relative squared error of the layer's output.

    Args:
        view: Network, task, calibration data and cache.
        layers: Names of the modules.
        images: Calibration samples for the distances, at most.
        covariances: C per layer; measured on as many images if not given.

    Returns:
        g in units of the task's distance, for each layer where both are above 0.

    Raises:
        DataError: There are no calibration data.
        ModelError: A layer never ran, or something is not finite.
    """
    model, batches = view.model, view.data.calibration
    if covariances is None:
        covariances = measure_covariances(view, layers, images)
    candidates, errors = [], []
    for name in layers:
        quadratic = _quadratic(model, name, covariances)
        weight = model.get_parameter(f"{name}.weight")
        step = _PROBE * quadratic.rows.std().clamp_min(1e-12)
        probe = ladder(quadratic, step[None])
        changed = (step * probe.levels[0]).to(weight)
        candidates.append(Candidate(name, "quantize", 0.0, {f"{name}.weight": changed}))
        errors.append(float(probe.errors[0]) / max(quadratic.energy, 1e-300))
    harms = measure(model, candidates, batches, view.task, images=images, cache=view.cache)
    return {
        name: harm / error
        for name, harm, error in zip(layers, harms.mean, errors, strict=True)
        if harm > 0 and error > 0
    }


def measure_covariances(
    view: ModelView, layers: Sequence[str], images: int
) -> Mapping[str, Tensor]:
    """Measure C = E[x x^T] of what the layers read: linear ones, and ungrouped Conv2d.

    Of more than 2,048 inputs only blocks of 512 neighbours are kept: all pairs of 25,088 would take
    5 GB, and some thousand samples do not tell them from noise.

    Args:
        view: Network, task and calibration data.
        layers: Names of the modules; the others, and those that are not called, are left out.
        images: Calibration samples, at most.

    Raises:
        DataError: There are no calibration data.
        ModelError: A layer's inputs are not finite.
    """
    model, batches = view.model, view.data.calibration
    # Of some, another module reads the weight: MultiheadAttention that of its out_proj.
    called = {layer.name for layer in view.graph.layers if layer.input_shape}
    measurable = [n for n in layers if n in called and _ungrouped(model.get_submodule(n))]
    return input_covariances(model, measurable, batches, view.task, images, widest=_WIDEST)


def _quadratic(model: nn.Module, name: str, covariances: Mapping[str, Tensor]) -> Quadratic:
    module = model.get_submodule(name)
    weight = model.get_parameter(f"{name}.weight")
    if not bool(torch.isfinite(weight).all()):
        raise ModelError(f"{name}: has weights that are not finite; check the checkpoint")
    covariance = covariances.get(name) if _ungrouped(module) else None
    try:
        return Quadratic.of(weight, covariance)
    except ValueError as error:
        raise ModelError(f"{name}: {error}; measure it on this network") from None


def _ungrouped(module: nn.Module) -> bool:
    """Tell whether input covariances are defined for a layer."""
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)


def _steps(rows: Tensor) -> Tensor:
    """Give the ladder, finest first."""
    largest = rows.abs().max().clamp_min(1e-12)
    return largest / LARGEST * _RATIO ** torch.arange(_RUNGS, dtype=torch.float64)
