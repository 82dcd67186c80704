"""ONNX Runtime, and what its profile says of operations."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
from torch import Tensor

from lissom.export.onnx import Chains
from lissom.export.runtime import RUNTIME, OnnxSession
from lissom.measure.operation import Operation
from lissom.measure.operation_graph import Feed, chain, operation_graph
from lissom.measure.runtime import Call, Runnable, Samples

_RUNS = 12
_CHAIN = 200  # operations that do nothing, to time what the runtime needs to start one
_NODE = re.compile(r"[yz](\d+)(?:_nchwc)?(?:_token_\d+)?_kernel_time$")
# A ReLU that was not fused runs beside others in the network, too; the rest is what happens at
# the edges of a graph, which the network around a layer does without.
_NOT_COUNTED = (
    "Relu",
    "ReorderInput",
    "ReorderOutput",
    "QuantizeLinear",
    "DequantizeLinear",
    "Transpose",
)

Rewrite = Callable[[bytes, Feed], bytes]


class OnnxRuntime:
    """ONNX Runtime on the CPU.

    Operations are timed by its profile, which tells the kernel's time alone.

    Attributes:
        label: Name and version; ``int8`` behind them where networks run so.
    """

    def __init__(self, rewrite: Rewrite | None = None) -> None:
        """Load nothing yet.

        Args:
            rewrite: Turns a float network into its form in int8; None: it runs as it is.
        """
        self._rewrite = rewrite
        self.label = RUNTIME if rewrite is None else f"{RUNTIME} int8"

    def call(self, given: Runnable, inputs: Sequence[Tensor], threads: int) -> Call:
        """Open a session and give one run of it."""
        # Files in int8 keep a node for each layer: what is rounded is named by them.
        chains: Chains = "merged" if self._rewrite is None else "kept"
        with given.as_file(inputs, chains) as path:
            plain = OnnxSession(path, threads=threads)
            feed = plain.feed(inputs)
            if self._rewrite is None:
                session = plain
            else:
                session = OnnxSession(self._rewrite(path.read_bytes(), feed), threads=threads)
        session(*inputs)
        return partial(session.run_arrays, feed)

    def samples(self, operations: Sequence[Operation], batch: int, threads: int) -> Samples:
        """Prepare to time operations in a graph of their own."""
        content, feed = operation_graph(operations, batch)
        if self._rewrite is not None:
            content = self._rewrite(content, feed)

        def once() -> list[list[float]]:
            found = durations(_profile(content, feed, threads))
            # The first run allocates.
            return [found.get(place, [])[1:] for place in range(len(operations))]

        return once

    def start_up(self, threads: int) -> int:
        """Time two chains of operations that do nothing, in turn; their difference tells."""
        feed = {"x": np.ones(1, dtype=np.float32)}
        sessions = [_session(chain(length), threads) for length in (_CHAIN, 2 * _CHAIN)]
        best = [math.inf, math.inf]
        for _ in range(10 * _RUNS):
            for place, session in enumerate(sessions):
                start = time.perf_counter_ns()
                session.run(None, feed)
                best[place] = min(best[place], time.perf_counter_ns() - start)
        return max(round((best[1] - best[0]) / _CHAIN), 0)


def durations(events: Sequence[Mapping[str, Any]]) -> dict[int, list[float]]:
    """Collect the times per place: the runtime names a fused node after its first or last output.

    Nodes called y3, z3, z3_nchwc, y3_token_7 or "fused y3" belong to operation 3.
    """
    found: dict[int, list[float]] = {}
    for event in events:
        node = _NODE.search(str(event["name"]))
        if event.get("cat") != "Node" or node is None:
            continue
        if event["args"]["op_name"] not in _NOT_COUNTED:
            found.setdefault(int(node[1]), []).append(float(event["dur"]))
    return found


def _profile(content: bytes, feed: Feed, threads: int) -> list[dict[str, Any]]:
    with TemporaryDirectory(prefix="lissom-profile-") as folder:
        session = _session(content, threads, profile=Path(folder) / "profile")
        for _ in range(_RUNS + 1):
            session.run(None, feed)
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text())
    return events


def _session(
    content: bytes, threads: int, profile: Path | None = None
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
