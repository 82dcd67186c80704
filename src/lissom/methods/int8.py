"""int8: weights and activations rounded as integer kernels want them, in a short tuning.

Structure stays as the stages before left it. What is decided: the ranges of all activations, the
levels of all weights, and which layers stay float. The run writes the file in int8 and measures it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lissom.errors import BudgetError, ExportError, LissomError, RecipeError
from lissom.export.int8_check import check_kernels
from lissom.export.int8_choice import FloatBudget, Harm, choose_float, layer_harms
from lissom.export.int8_observe import observe
from lissom.export.int8_operators import with_integer_kernels
from lissom.export.onnx import onnx_content
from lissom.export.qdq import Int8Layout, layer_names, tensors_to_observe, write_qdq
from lissom.export.rounded_network import RoundedNetwork
from lissom.export.runtime import OnnxNetwork, OnnxSession, structure_of
from lissom.extension import ModelView, Proposal
from lissom.methods.int8_options import AUTO, Int8Options
from lissom.methods.range_tuning import RangeTuning
from lissom.methods.units import check_ignored
from lissom.methods.wish import Wish
from lissom.plan.budget import Budget
from lissom.plan.cost import Cost
from lissom.plan.plan import Plan
from lissom.plan.quantize import Quantize
from lissom.plan.round_activations import RoundActivations
from lissom.quantization.activation_ranges import ESTIMATORS, Range, observe_histograms
from lissom.quantization.levelled import bits_of
from lissom.task import first_inputs
from lissom.train.processes import Processes

_CHECKED = 32  # images on which kernels are compared with what the file says
_DIGITS = 5  # of a range, in the plan


class Int8:
    """Calibrates, tunes, and leaves float what harms too much.

    Attributes:
        name: ``int8``.
        trains: Unless ``epochs`` is 0.
        limits: The quality that may be lost.
        finishes: True: it comes last, and may do without a limit.
    """

    name = "int8"
    limits = frozenset({"max_drop"})
    finishes = True

    def __init__(self, settings: Int8Options | None = None) -> None:
        self.settings = settings or Int8Options()

    @property
    def trains(self) -> bool:
        """Tell whether ``plan`` trains."""
        return self.settings.epochs != 0

    def epochs(self, run: int) -> int:
        """Give the epochs of the tuning.

        Args:
            run: Epochs of a recovery.
        """
        return self.settings.tuning_epochs(run)

    def plan_together(self, view: ModelView, budget: Budget) -> Proposal:
        """Decide in several processes: all take part also where nothing is trained."""
        return self.plan(view, budget)

    def smallest(self, view: ModelView) -> Cost:
        """Give the network's cost: parameters and MACs stay what they are."""
        return view.graph.cost

    def plan(self, view: ModelView, budget: Budget) -> Proposal:
        """Tune with the run's settings, and leave float what the budget does not bear.

        Raises:
            BudgetError: More is lost even with all layers in float.
            ExportError: The network has no layer for int8, or no file with a free batch.
            LissomError: The view can't train (a preview).
        """
        if self.trains and view.train is None:
            raise LissomError("int8 tunes by training, which a preview does not do")
        processes = Processes.here()
        check_ignored(view.graph, view.ignore)
        plain = _exported(view.model, view.example_inputs)
        harm = _judge(view, plain, self.settings.calibration_images)
        start = processes.from_first(lambda: self._calibrated(view, plain, harm))
        network = copy.deepcopy(view.model)
        rounded = RoundedNetwork(network, view.example_inputs, start.content, start.layout)
        found = _Tuned.of(view.model, view, rounded, start.layout)
        evidence, training = dict(start.evidence), None
        if self.trains:
            training = self._trained(view, rounded)
            tuned, before = _Tuned.of(network, view, rounded, start.layout), found
            harms = processes.from_first(lambda: [harm(one.file()) for one in (before, tuned)])
            evidence |= {"harm_observed": harms[0], "harm_tuned": harms[1]}
            found = min((harms[1], 0, tuned), (harms[0], 1, before))[2]
            evidence["kept"] = "tuned" if found is tuned else "as observed"
        names = layer_names(start.content)
        layout, left = processes.from_first(lambda: self._within(view, budget, found, harm, names))
        return Proposal(
            plan=Plan((*found.decisions(layout), _decision(layout))),
            values=found.values(layout),
            predicted=view.graph.cost,
            evidence={**evidence, **left},
            training=training,
            settled=True,
        )

    def _calibrated(self, view: ModelView, plain: bytes, harm: Harm) -> _Start:
        """Observe ranges, by the estimator that harms least."""
        content = with_integer_kernels(plain)
        layers = _not_ignored(view, layer_names(content))
        seen = observe_histograms(observe(content, tensors_to_observe(content), harm.batches))
        wanted = ESTIMATORS if self.settings.estimator == AUTO else (self.settings.estimator,)
        layouts = {
            name: Int8Layout(
                {tensor: ESTIMATORS[name](found) for tensor, found in seen.items()},
                layers,
                self.settings.reduce_range,
                self.settings.weight_bits,
            )
            for name in wanted
        }
        tried = {name: harm(write_qdq(content, layout)) for name, layout in layouts.items()}
        best = min(tried, key=lambda name: tried[name])
        evidence: dict[str, Any] = {"harm_by_estimator": tried, "estimator": best}
        layout, count = layouts[best], self.settings.keep_float
        if count:
            harms = layer_harms(harm, content, layout)
            kept = choose_float(lambda _layers: 0.0, harms, FloatBudget(count))
            layout = replace(layout, layers=layers - kept)
        if not layout.layers:
            raise BudgetError(
                f"int8: with keep_float={count} no convolution or linear layer is left to round; "
                "keep fewer in float, or ignore fewer"
            )
        check_kernels(write_qdq(content, layout), [_few(one) for one in harm.batches[:1]])
        return _Start(content, layout, evidence)

    def _trained(self, view: ModelView, rounded: RoundedNetwork) -> Mapping[str, Any]:
        assert view.train is not None
        shifts = [one.shift for one in rounded.learned_ranges()]
        settings = self.settings
        return view.train(
            rounded,
            RangeTuning(shifts, settings.range_rate),
            rate_factor=settings.rate_factor,
        )

    def _within(
        self, view: ModelView, budget: Budget, tuned: _Tuned, harm: Harm, names: Sequence[str]
    ) -> tuple[Int8Layout, dict[str, Any]]:
        """Leave so many layers float as it takes for the budget, and say what is left of it."""
        allowed = math.inf if budget.max_drop is None else budget.max_drop.value
        wish = Wish(view, None, allowed)

        def drop(layout: Int8Layout) -> float:
            session = OnnxSession(tuned.file(layout))
            return wish.drop(OnnxNetwork(session, structure_of(tuned.network, tuned.inputs)))

        layout, harms = tuned.layout, dict[str, float]()
        lost = drop(layout)
        if lost > allowed:
            harms = layer_harms(harm, tuned.content(replace(layout, layers=frozenset())), layout)
            kept = choose_float(
                lambda layers: drop(replace(layout, layers=layers)), harms, FloatBudget(0, allowed)
            )
            layout = replace(layout, layers=layout.layers - kept)
            lost = drop(layout) if layout.layers else math.inf
        if lost > allowed:
            raise BudgetError(
                f"int8: max_drop={allowed:g} is not kept, whichever layers stay float; allow more, "
                "tune for more epochs, or let the stages before lose less"
            )
        return layout, {
            "harm": harm(tuned.file(layout)),
            "held_out_drop": lost,
            "harm_by_layer": harms,
            "float_layers": sorted(set(names) - layout.layers),
        }


@dataclass(frozen=True, slots=True)
class _Start:
    """Where tuning begins.

    Attributes:
        content: The float network as ``write_qdq`` takes it.
        layout: Ranges as observed.
        evidence: For the report.
    """

    content: bytes
    layout: Int8Layout
    evidence: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Tuned:
    """A network before or after tuning: its float weights, and what they are rounded to.

    Attributes:
        network: With float weights.
        levels: By layer q and s, (C,).
        layout: Ranges as learned, or as observed.
        inputs: Of the network.
        files: What has been exported, by the layers that compute in int8.
    """

    network: nn.Module
    levels: Mapping[str, tuple[Tensor, Tensor]]
    layout: Int8Layout
    inputs: tuple[Tensor, ...]
    files: dict[frozenset[str], bytes] = field(default_factory=dict)

    @classmethod
    def of(
        cls, network: nn.Module, view: ModelView, rounded: RoundedNetwork, start: Int8Layout
    ) -> _Tuned:
        """Take what a rounded network has come to.

        Args:
            network: With the float weights of now; is kept.
            view: For the inputs.
            rounded: The network's.
            start: What is not learned is as here.
        """
        ranges = {**start.ranges, **rounded.learned}
        short = {name: _short(one) for name, one in ranges.items()}
        layout = replace(start, ranges=short)
        return cls(network.eval(), rounded.hardened(), layout, view.example_inputs)

    def values(self, layout: Int8Layout) -> dict[str, Tensor]:
        """Give the state dict with the weights of the layers in int8 rounded."""
        state = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        for layer in self._rounded(layout):
            levels, steps = self.levels[layer]
            shaped = steps.view(-1, *[1] * (levels.ndim - 1))
            state[f"{layer}.weight"] = levels.to(torch.float32) * shaped
        return state

    def decisions(self, layout: Int8Layout) -> list[Quantize]:
        """Say of each layer in int8 what its levels are."""
        return [
            Quantize(layer, bits_of(levels), int(levels.count_nonzero()), channel_scales=True)
            for layer in self._rounded(layout)
            for levels in (self.levels[layer][0],)
        ]

    def content(self, layout: Int8Layout) -> bytes:
        """Give the network of ``values`` as ``write_qdq`` takes it."""
        network = copy.deepcopy(self.network)
        network.load_state_dict(self.values(layout))
        return with_integer_kernels(_exported(network, self.inputs))

    def file(self, layout: Int8Layout | None = None) -> bytes:
        """Give the file in int8; with the layout as tuned unless another is given."""
        layout = layout or self.layout
        if layout.layers not in self.files:
            self.files[layout.layers] = write_qdq(self.content(layout), layout)
        return self.files[layout.layers]

    def _rounded(self, layout: Int8Layout) -> list[str]:
        return [layer for layer in self.levels if layer in layout.layers]


def _judge(view: ModelView, content: bytes, images: int) -> Harm:
    """Measure against the original's outputs on calibration images.

    Args:
        view: Of the network.
        content: The network as ONNX: the original, unless the view knows another.
        images: How many.
    """
    original = view.model if view.original is None else view.original
    if original is not view.model:
        content = _exported(original, view.example_inputs)
    inputs = first_inputs(view.task, view.data.calibration, images)
    structure = structure_of(original, view.example_inputs)

    def distance(outputs: tuple[Tensor, ...], reference: tuple[Tensor, ...]) -> Tensor:
        nested = (pytree.tree_unflatten(one, structure) for one in (outputs, reference))
        return view.task.distance(*nested)

    return Harm(content, inputs, distance)


def _exported(network: nn.Module, inputs: tuple[Tensor, ...]) -> bytes:
    content, check = onnx_content(network, inputs)
    if not check.dynamic_batch:
        raise ExportError(
            f"int8: the network's ONNX file would take one image at a time ({check.note}), so that "
            "it can't be tuned; leave the stage out, or let the network take any batch"
        )
    return content


def _decision(layout: Int8Layout) -> RoundActivations:
    ranges = ((name, one.low, one.high) for name, one in sorted(layout.ranges.items()))
    layers = tuple(sorted(layout.layers))
    return RoundActivations(layers, tuple(ranges), layout.reduce_range, layout.bits)


def _not_ignored(view: ModelView, names: Sequence[str]) -> frozenset[str]:
    """Give the layers of the file that may compute in int8.

    Raises:
        RecipeError: An ignored layer is not in the file under its name.
    """
    modules = {name.partition("#")[0] for name in names}
    for name in view.ignore - modules:
        if isinstance(view.model.get_submodule(name), (nn.Linear, nn.modules.conv._ConvNd)):
            raise RecipeError(
                f"ignore: {name} has another name in the ONNX file (a weight that another layer "
                "has, too, or a product over several axes), so that int8 can't leave it out by "
                "name; keep it float with keep_float, or leave the stage out"
            )
    return frozenset(name for name in names if name.partition("#")[0] not in view.ignore)


def _few(batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(one[:_CHECKED] if one.ndim else one for one in batch)


def _short(found: Range) -> Range:
    """Round to few digits: a thousandth of a step is of no account."""
    return Range(float(f"{found.low:.{_DIGITS}g}"), float(f"{found.high:.{_DIGITS}g}"))
