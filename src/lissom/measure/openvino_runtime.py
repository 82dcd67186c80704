"""OpenVINO, for whom the extra ``openvino`` is installed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor

from lissom.export.openvino import openvino_request
from lissom.export.runtime import OnnxSession
from lissom.measure.onnx_runtime import Rewrite
from lissom.measure.operation import Operation
from lissom.measure.operation_graph import Feed, operation_graph
from lissom.measure.runtime import Call, Runnable, Samples

_NODE = re.compile(r"y(\d+)(?:/WithoutBiases)?$")
_KINDS = ("Convolution", "GroupConvolution", "FullyConnected", "MatMul")
_WARM_UP = 2  # kernels are made in the first run
_RUNS = 8
_SAMPLES = 3


class OpenVinoRuntime:
    """OpenVINO on the CPU, in float32, or in int8 where the file says so.

    Its profile gives averages over all runs since the network was loaded, so that a sample is the
    mean of several runs.

    Attributes:
        label: Name and version; ``int8`` behind them where networks run so.
    """

    def __init__(self, version: str, rewrite: Rewrite | None = None) -> None:
        """Load nothing yet.

        Args:
            version: Of OpenVINO.
            rewrite: Turns a float network into its form in int8; None: it runs as it is.
        """
        self._rewrite = rewrite
        self.label = f"openvino {version}" + ("" if rewrite is None else " int8")

    def call(self, given: Runnable, inputs: Sequence[Tensor], threads: int) -> Call:
        """Compile a network and give one run of it."""
        with given.as_file(inputs) as path:
            content = path.read_bytes()
            feed = OnnxSession(path).feed(inputs)
        if self._rewrite is not None:
            content = self._rewrite(content, feed)
        request = openvino_request(content, threads=threads)
        request.infer(feed)
        return partial(request.infer, feed, share_inputs=True)

    def samples(self, operations: Sequence[Operation], batch: int, threads: int) -> Samples:
        """Prepare to time operations in a graph of their own."""
        content, feed = operation_graph(operations, batch)
        if self._rewrite is not None:
            content = self._rewrite(content, feed)

        def once() -> list[list[float]]:
            found = [_means(content, feed, threads) for _ in range(_SAMPLES)]
            return [[one[p] for one in found if p in one] for p in range(len(operations))]

        return once

    def start_up(self, threads: int) -> int:  # noqa: ARG002  (of the protocol)
        """Give 0: it runs operations that do nothing as one kernel, so that none can be timed."""
        return 0


def _means(content: bytes, feed: Feed, threads: int) -> dict[int, float]:
    """Give the mean time of each operation in microseconds, without the first runs."""
    request = openvino_request(content, threads=threads, profile=True)
    for _ in range(_WARM_UP):
        request.infer(feed)
    before = _averages(request)
    for _ in range(_RUNS):
        request.infer(feed)
    total = _WARM_UP + _RUNS
    return {
        place: max(total * average - _WARM_UP * before[place], 0.0) / _RUNS
        for place, average in _averages(request).items()
    }


def _averages(request: Any) -> dict[int, float]:
    found: dict[int, float] = {}
    for event in request.profiling_info:
        node = _NODE.match(event.node_name)
        if node is not None and event.node_type in _KINDS:
            found[int(node[1])] = event.real_time.total_seconds() * 1e6
    return found
