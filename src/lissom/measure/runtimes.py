"""The runtimes that there are, by name."""

from __future__ import annotations

from collections.abc import Callable

from lissom.errors import RecipeError
from lissom.export.openvino import openvino_version
from lissom.measure.onnx_runtime import OnnxRuntime, Rewrite
from lissom.measure.openvino_runtime import OpenVinoRuntime
from lissom.measure.runtime import Runtime
from lissom.measure.torch_runtime import TorchRuntime

_MADE: dict[str, Callable[[Rewrite | None], Runtime]] = {
    "onnxruntime": OnnxRuntime,
    "openvino": lambda rewrite: OpenVinoRuntime(openvino_version(), rewrite),
    "torch": lambda _rewrite: TorchRuntime(),
    "torch-compiled": lambda _rewrite: TorchRuntime(compiled=True),
}
RUNTIMES = tuple(_MADE)
FILES = ("onnxruntime", "openvino")
"""Those that run ONNX files, and know int8."""


def runtime_called(name: str, rewrite: Rewrite | None = None) -> Runtime:
    """Give a runtime.

    Args:
        name: One of ``RUNTIMES``.
        rewrite: Turns a float network into its form in int8; None: networks run as they are.

    Raises:
        ExportError: OpenVINO is not installed.
        RecipeError: It does not run in int8.
    """
    if rewrite is not None and name not in FILES:
        raise RecipeError(
            f"latency.runtime: {name} does not run networks in int8; take {' or '.join(FILES)}, or "
            "leave the bits out"
        )
    return _MADE[name](rewrite)
