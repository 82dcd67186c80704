"""int8: weights and activations rounded as integer kernels want them, in a short tuning.

Structure stays as the stages before left it, and so do levels. What is decided: the ranges of all
activations, the levels of all weights that have none, and which layers stay float. The run writes
the file in int8 and measures it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from lissom.errors import BudgetError, LissomError
from lissom.export.int8_check import check_kernels
from lissom.export.int8_choice import FloatBudget, Harm, choose_float, layer_harms
from lissom.export.int8_observe import observe
from lissom.export.int8_operators import with_integer_kernels
from lissom.export.qdq import (
    Int8Layout,
    layer_names,
    tensors_to_observe,
    write_qdq,
)
from lissom.export.rounded_network import RoundedNetwork
from lissom.export.runtime import OnnxNetwork, OnnxSession, structure_of
from lissom.extension import ModelView, Proposal
from lissom.methods.int8_float import check_time, tell_time
from lissom.methods.int8_layers import faster, not_ignored, on_levels_before
from lissom.methods.int8_options import AUTO, Int8Options
from lissom.methods.int8_tuned import Start, Tuned, decision_of, exported, longest
from lissom.methods.range_tuning import RangeTuning
from lissom.methods.units import check_ignored
from lissom.methods.wish import Wish
from lissom.plan.budget import Budget, Limit
from lissom.plan.cost import Cost
from lissom.plan.plan import Plan
from lissom.quantization.activation_ranges import (
    ESTIMATORS,
    Range,
    min_max,
    observe_histograms,
)
from lissom.task import first_inputs
from lissom.train.processes import Processes

_CHECKED = 32  # images on which kernels are compared with what the file says


class Int8:
    """Calibrates, tunes, and leaves float what harms too much.

    Attributes:
        name: ``int8``.
        trains: Unless ``epochs`` is 0.
        limits: The quality that may be lost, and the time that the file may take.
        finishes: True: it comes last, and may do without a limit.
        keeps_levels: Whether levels that a stage before has chosen stay.
        tuning: Options that were set for its tuning.
        in_int8: True: stages before it are timed in int8.
    """

    name = "int8"
    limits = frozenset({"max_drop", "latency"})
    finishes = True
    in_int8 = True

    def __init__(self, settings: Int8Options | None = None) -> None:
        self.settings = settings or Int8Options()

    @property
    def trains(self) -> bool:
        """Tell whether ``plan`` trains."""
        return self.settings.epochs != 0

    @property
    def keeps_levels(self) -> bool:
        """Tell whether levels that a stage before has chosen stay."""
        return self.settings.weight_bits is None and not self.settings.reduce_range

    @property
    def tuning(self) -> tuple[str, ...]:
        """Name the options that have been set and matter only where something is tuned."""
        return self.settings.tuning

    def foreseen(self, view: ModelView) -> Plan:
        """Give a decision that takes about as many bytes as the one to come."""
        _content, layout = self._guessed(view)
        ranges = {name: longest(one) for name, one in layout.ranges.items()}
        return Plan((decision_of(replace(layout, ranges=ranges)),))

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
        plain = exported(view.model, view.example_inputs)
        harm = _judge(view, plain, self.settings.calibration_images)
        start = processes.from_first(lambda: self._calibrated(view, plain, harm, budget.latency))
        network = copy.deepcopy(view.model)
        kept = on_levels_before(view) if self.keeps_levels else frozenset[str]()
        rounded = RoundedNetwork(network, view.example_inputs, start.content, start.layout, kept)
        found = Tuned.of(view.model, view, rounded, start.layout)
        evidence, training = dict(start.evidence), None
        if self.trains and not kept:
            training = self._trained(view, rounded)
            tuned, before = Tuned.of(network, view, rounded, start.layout), found
            harms = processes.from_first(lambda: [harm(one.file()) for one in (before, tuned)])
            evidence |= {"harm_observed": harms[0], "harm_tuned": harms[1]}
            found = tuned if harms[1] <= harms[0] else before  # NaN is no better
            evidence["kept"] = "tuned" if found is tuned else "as observed"
        names = layer_names(start.content)
        layout, left = processes.from_first(lambda: self._within(view, budget, found, harm, names))
        evidence |= left
        above = str(evidence.pop("above", ""))
        return Proposal(
            plan=Plan((*found.decisions(layout), decision_of(layout))),
            values=found.values(layout),
            predicted=view.graph.cost,
            evidence={
                **evidence,
                "kept_levels": sorted(layout.layers & kept),
                "not_tuned": sorted(layout.layers - found.levels.keys() - kept),
            },
            training=training,
            settled=True,
            above=above,
        )

    def check_time(self, view: ModelView, limit: Limit) -> None:
        """Refuse a limit on latency that this network does not keep in int8.

        Raises:
            BudgetError: It takes longer than that.
        """
        if self.settings.keep_float:
            return  # which layers these are, and what they take, is not known yet
        content, layout = self._guessed(view)
        floats, _ = faster(view, content, layout)
        layout = replace(layout, layers=layout.layers - floats)
        check_time(view, limit, write_qdq(content, layout))

    def _calibrated(self, view: ModelView, plain: bytes, harm: Harm, limit: Limit | None) -> Start:
        """Observe ranges, by the estimator that harms least."""
        content = with_integer_kernels(plain)
        layers = not_ignored(view, layer_names(content))
        seen = observe_histograms(observe(content, tensors_to_observe(content), harm.batches))
        wanted = ESTIMATORS if self.settings.estimator == AUTO else (self.settings.estimator,)
        layouts = {
            name: self._layout(
                {tensor: ESTIMATORS[name](one) for tensor, one in seen.items()}, layers
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
        floats, evidence["faster_in_float"] = faster(view, content, layout)
        layout = replace(layout, layers=layout.layers - floats)
        if not layout.layers:
            raise BudgetError(
                f"int8: with keep_float={count} no convolution or linear layer is left to round; "
                "keep fewer in float, or ignore fewer"
            )
        written = write_qdq(content, layout)
        evidence |= check_time(view, limit, written)
        check_kernels(written, [_few(one) for one in harm.batches[:1]])
        return Start(content, layout, evidence)

    def _guessed(self, view: ModelView) -> tuple[bytes, Int8Layout]:
        """Give the network as ``write_qdq`` takes it, with ranges of a few images."""
        content = with_integer_kernels(exported(view.model, view.example_inputs))
        layers = not_ignored(view, layer_names(content))
        images = first_inputs(view.task, view.data.calibration, _CHECKED)
        seen = observe_histograms(observe(content, tensors_to_observe(content), images))
        return content, self._layout({name: min_max(one) for name, one in seen.items()}, layers)

    def _layout(self, ranges: Mapping[str, Range], layers: frozenset[str]) -> Int8Layout:
        settings = self.settings
        return Int8Layout(ranges, layers, settings.reduce_range, settings.bits)

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
        self, view: ModelView, budget: Budget, tuned: Tuned, harm: Harm, names: Sequence[str]
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
        changed = layout.layers != tuned.layout.layers
        time = tell_time if self.trains else check_time  # nothing that was trained is thrown away
        return layout, {
            **(time(view, budget.latency, tuned.file(layout)) if changed else {}),
            "harm": harm(tuned.file(layout)),
            "held_out_drop": lost,
            "harm_by_layer": harms,
            "float_layers": sorted(set(names) - layout.layers),
        }


def _judge(view: ModelView, content: bytes, images: int) -> Harm:
    """Measure against the original's outputs on calibration images.

    Args:
        view: Of the network.
        content: The network as ONNX: the original, unless the view knows another.
        images: How many.
    """
    original = view.model if view.original is None else view.original
    if original is not view.model:
        content = exported(original, view.example_inputs)
    inputs = first_inputs(view.task, view.data.calibration, images)
    structure = structure_of(original, view.example_inputs)

    def distance(outputs: tuple[Tensor, ...], reference: tuple[Tensor, ...]) -> Tensor:
        nested = (pytree.tree_unflatten(one, structure) for one in (outputs, reference))
        return view.task.distance(*nested)

    return Harm(content, inputs, distance)


def _few(batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(one[:_CHECKED] if one.ndim else one for one in batch)
