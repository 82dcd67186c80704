"""torch itself on the CPU: operator by operator, or compiled."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from lissom.errors import MeasureError
from lissom.measure.operation import Operation
from lissom.measure.runtime import Call, Runnable, Samples

_RUNS = 12


class TorchRuntime:
    """Runs modules, not files, in float32.

    Operations are timed one by one as torch starts them, compiled or not: what compiling saves
    beside them is part of what a network takes besides its layers.

    Attributes:
        label: Name and version; ``compiled`` behind them where networks are.
    """

    def __init__(self, *, compiled: bool = False) -> None:
        """Load nothing yet.

        Args:
            compiled: Whether networks are compiled, by inductor.
        """
        self._compiled = compiled
        self.label = f"torch {torch.__version__}" + (" compiled" if compiled else "")

    def call(self, given: Runnable, inputs: Sequence[Tensor], threads: int) -> Call:
        """Copy a module, compile it where that is asked, and give one run of it."""
        network, examples = copy.deepcopy(given.module).eval(), tuple(inputs)
        if self._compiled:
            network = self._made(network, examples, threads)

        def run() -> object:
            with _running(threads):
                return network(*examples)

        return run

    def samples(self, operations: Sequence[Operation], batch: int, threads: int) -> Samples:
        """Prepare to time operations by the clock on the wall, one after another."""
        calls = [_call(one, batch) for one in operations]

        def once() -> list[list[float]]:
            found: list[list[float]] = [[] for _ in calls]
            with _running(threads):
                for _ in range(_RUNS + 1):
                    for taken, call in zip(found, calls, strict=True):
                        start = time.perf_counter_ns()
                        call()
                        taken.append((time.perf_counter_ns() - start) / 1e3)
            return [taken[1:] for taken in found]

        return once

    def start_up(self, threads: int) -> int:  # noqa: ARG002  (of the protocol)
        """Give 0: the samples have it."""
        return 0

    def _made(self, network: nn.Module, examples: tuple[Tensor, ...], threads: int) -> nn.Module:
        """Compile a network for inputs of one shape."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of torch's own parts
                # An exported graph has code of its own: torch keeps only a few compiled forms of
                # one and the same code, and runs all further networks uncompiled.
                made = torch.export.export(network, examples).module()
                made.compile()
                with _running(threads):
                    made(*examples)
        # What compiling may raise shares no public base class.
        except Exception as error:
            raise MeasureError(
                f"latency.runtime: {self.label} can't run this network "
                f"({str(error).strip().splitlines()[0][:300]}); compiling needs a C++ compiler. "
                "Take torch, or onnxruntime"
            ) from error
        return made


def _call(operation: Operation, batch: int) -> Call:
    generator = torch.Generator().manual_seed(0)
    given = torch.randn(operation.input_shape(batch), generator=generator)
    weight = torch.randn(operation.weight_shape, generator=generator)
    if operation.is_product:
        return lambda: functional.linear(given, weight)
    top, left, bottom, right = operation.padding
    padding, around = (top, left), (left, right, top, bottom)
    if (top, left) != (bottom, right):
        return lambda: functional.conv2d(
            functional.pad(given, around),
            weight,
            stride=operation.stride,
            dilation=operation.dilation,
            groups=operation.groups,
        )
    return lambda: functional.conv2d(
        given,
        weight,
        stride=operation.stride,
        padding=padding,
        dilation=operation.dilation,
        groups=operation.groups,
    )


@contextmanager
def _running(threads: int) -> Iterator[None]:
    """Let torch compute with so many threads, and without gradients."""
    before = torch.get_num_threads()
    if threads != before:
        torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            yield
    finally:
        if threads != before:
            torch.set_num_threads(before)
