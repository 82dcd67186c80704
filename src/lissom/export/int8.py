"""A trained network to an ONNX file that ONNX Runtime carries out in int8, without training.

Ranges, equalization and bias correction are tried, and what measurably brings the outputs closer
to the float network's is kept. A training that learns the ranges enters at ``Int8Layout``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

from lissom.errors import DataError, ExportError
from lissom.export.files import write_files
from lissom.export.int8_balance import correct_biases, equalize
from lissom.export.int8_check import Agreement, agreement, check_kernels, operators_as_run
from lissom.export.int8_choice import (
    Batches,
    Distance,
    FloatBudget,
    Harm,
    choose_float,
    layer_harms,
)
from lissom.export.int8_observe import observe
from lissom.export.int8_operators import with_integer_kernels
from lissom.export.onnx import OnnxCheck, onnx_content
from lissom.export.qdq import Int8Layout, check_fits, layer_names, tensors_to_observe, write_qdq
from lissom.export.runtime import OnnxSession
from lissom.quantization.activation_ranges import ESTIMATORS, observe_histograms

AUTO = "auto"
Use = Literal["auto", "always", "never"]
ByTime: TypeAlias = Callable[[bytes, Int8Layout], tuple[frozenset[str], dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Int8Settings:
    """How a network is brought to int8.

    Attributes:
        estimator: Of the activations' ranges: ``min_max``, ``percentile`` or ``mse``; ``auto``: the
            one that does the least harm on the calibration data.
        equalize: Cross-layer equalization; ``auto``: where it does less harm than none.
        correct_bias: Bias correction; ``auto`` likewise.
        reduce_range: Weights in 7 bits, for CPUs without VNNI.
        budget: How many layers stay float.
        faster_in_float: Takes the network as ``write_qdq`` does, and names the layers of a layout
            that stay float for time, with what was measured; None: nobody is asked.
    """

    estimator: str = AUTO
    equalize: Use = "auto"
    correct_bias: Use = "auto"
    reduce_range: bool = False
    budget: FloatBudget = field(default_factory=FloatBudget)
    faster_in_float: ByTime | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.estimator not in (AUTO, *ESTIMATORS):
            raise ValueError(
                f"estimator {self.estimator!r}: expected {AUTO}, {', '.join(ESTIMATORS)}"
            )
        for name in ("equalize", "correct_bias"):
            if getattr(self, name) not in ("auto", "always", "never"):
                raise ValueError(f"{name}={getattr(self, name)!r}: expected auto, always or never")


@dataclass(frozen=True, slots=True)
class Int8Data:
    """Inputs of the network, and how outputs are compared.

    Attributes:
        calibration: For ranges, means and harm.
        held_out: For the check; not the calibration data.
        distance: Between outputs and the float network's; averaged over the samples.
    """

    calibration: Batches
    held_out: Batches
    distance: Distance

    def __post_init__(self) -> None:
        for name in ("calibration", "held_out"):
            if not getattr(self, name):
                raise DataError(f"{name}: no images; int8 needs at least one batch")


@dataclass(frozen=True, slots=True)
class Int8Check:
    """What is known of a file in int8, all of it measured in ONNX Runtime on this CPU.

    Attributes:
        runs: By layer the operator that it runs as; ``float`` where it is not int8.
        operators: How often each stands in the optimised network.
        kept_float: Layers that stay float for what they harm, or for time.
        faster_in_float: What was measured to choose those that stay for time; empty where nothing
            was.
        harms: By layer, of that layer alone; empty where no budget asked for it.
        tried: Harm by way of preparing the network; the smallest was taken.
        harm: Of the whole network on the calibration data.
        float_agreement: With the float network, on held-out data.
        kernel_agreement: Of the integer kernels with the file's own arithmetic.
        size_bytes: Of the file.
        original: Check of the float file that it was made from.
    """

    runs: Mapping[str, str]
    operators: Mapping[str, int]
    kept_float: tuple[str, ...]
    faster_in_float: Mapping[str, Any]
    harms: Mapping[str, float]
    tried: Mapping[str, float]
    harm: float
    float_agreement: Agreement
    kernel_agreement: Agreement
    size_bytes: int
    original: OnnxCheck


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A float network and the layout in which it will be rounded."""

    content: bytes
    layout: Int8Layout
    how: str

    def rounded(self) -> bytes:
        return write_qdq(self.content, self.layout)

    def without(self, floats: frozenset[str]) -> _Prepared:
        layout = replace(self.layout, layers=self.layout.layers - floats)
        return replace(self, layout=layout)


def export_int8(
    model: nn.Module,
    example_inputs: Sequence[Tensor],
    path: Path,
    data: Int8Data,
    settings: Int8Settings,
    layout: Int8Layout | None = None,
) -> Int8Check:
    """Write ``model`` as an ONNX file that runs in int8, with a free batch where it allows one.

    The file gets its name only once ONNX Runtime's integer kernels compute what it says. ``model``
    is not changed.

    Args:
        model: Any network; a copy of it is exported on the CPU in eval mode.
        example_inputs: Inputs with the batch in front.
        path: Where the file goes.
        data: For calibration and check.
        settings: How.
        layout: Ranges and layers that are known already; None: ``settings`` says how to find them.

    Raises:
        ExportError: The network can't be expressed or has no layer for int8, or the file computes
            something else.
        DataError: An activation is NaN or infinite on the calibration data.
        LissomError: The file can't be written.
    """
    content, check = onnx_content(model, example_inputs)
    base = with_integer_kernels(content)
    if not layer_names(base):
        raise ExportError(
            f"{type(model).__name__}: has no convolution or linear layer with weights of its own, "
            "so that nothing can run in int8; export it with --to onnx"
        )
    harm = Harm(content, data.calibration, data.distance)
    harms, tried, by_time = dict[str, float](), dict[str, float](), dict[str, Any]()
    if layout is not None:
        check_fits(base, layout)
        prepared = _Prepared(base, layout, "as planned")
    else:
        prepared, tried = _prepare(base, harm, data.calibration, settings)
    if layout is None and settings.budget.asks:
        harms = layer_harms(harm, prepared.content, prepared.layout)
        prepared = _within_budget(prepared, harm, harms, settings.budget)
    if layout is None and settings.faster_in_float is not None:
        floats, by_time = settings.faster_in_float(prepared.content, prepared.layout)
        prepared = prepared.without(floats)
    rounded = prepared.rounded()
    names = layer_names(base)
    runs, operators = operators_as_run(rounded, names)
    result = Int8Check(
        runs=runs,
        operators=dict(operators),
        kept_float=tuple(name for name in names if name not in prepared.layout.layers),
        faster_in_float=by_time,
        harms=harms,
        tried=tried,
        harm=harm(rounded),
        float_agreement=_compare(rounded, content, data.held_out),
        kernel_agreement=check_kernels(rounded, data.held_out[:1]),
        size_bytes=len(rounded),
        original=check,
    )
    write_files({path: rounded})
    return result


def _prepare(
    base: bytes, harm: Harm, calibration: Batches, settings: Int8Settings
) -> tuple[_Prepared, dict[str, float]]:
    """Give the way that does the least harm, and the harm of each that was tried."""
    candidates = list(_calibrated(base, calibration, settings))
    if len(candidates) == 1 and settings.correct_bias == "never":
        return candidates[0], {}
    tried = {one.how: harm(one.rounded()) for one in candidates}
    best = min(candidates, key=lambda one: tried[one.how])
    if settings.correct_bias == "never":
        return best, tried
    content = correct_biases(best.content, best.layout, calibration)
    corrected = replace(best, content=content, how=f"{best.how}, biases corrected")
    tried[corrected.how] = harm(corrected.rounded())
    if settings.correct_bias == "auto" and tried[corrected.how] > tried[best.how]:
        return best, tried
    return corrected, tried


def _calibrated(base: bytes, calibration: Batches, settings: Int8Settings) -> Iterator[_Prepared]:
    """Yield the network, as it is and equalized, with the ranges of each estimator asked for."""
    for name, content in _equalized(base, calibration, settings.equalize):
        seen = observe_histograms(observe(content, tensors_to_observe(content), calibration))
        wanted = ESTIMATORS if settings.estimator == AUTO else (settings.estimator,)
        layers = frozenset(layer_names(content))
        for estimator in wanted:
            ranges = {tensor: ESTIMATORS[estimator](found) for tensor, found in seen.items()}
            layout = Int8Layout(ranges, layers, settings.reduce_range)
            yield _Prepared(content, layout, estimator + name)


def _equalized(base: bytes, calibration: Batches, use: Use) -> Iterator[tuple[str, bytes]]:
    if use == "never":
        yield "", base
        return
    content, chains = equalize(base, calibration)
    if use == "auto" or not chains:
        yield "", base
    if chains:
        yield ", equalized", content


def _within_budget(
    prepared: _Prepared, harm: Harm, harms: Mapping[str, float], budget: FloatBudget
) -> _Prepared:
    def with_layers(layers: frozenset[str]) -> _Prepared:
        return replace(prepared, layout=replace(prepared.layout, layers=layers))

    kept = choose_float(lambda layers: harm(with_layers(layers).rounded()), harms, budget)
    return prepared.without(kept)


def _compare(rounded: bytes, content: bytes, batches: Batches) -> Agreement:
    ours, theirs = OnnxSession(rounded), OnnxSession(content)
    return agreement([ours(*one) for one in batches], [theirs(*one) for one in batches])
