"""A network as OpenVINO files, for whom the extra ``openvino`` is installed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lissom.errors import ExportError
from lissom.export.difference import largest_difference
from lissom.export.files import write_files
from lissom.export.onnx import onnx_content
from lissom.export.runtime import OnnxSession

# Its own default on CPUs that have bfloat16 computes in that.
_CONFIGURATION = {"INFERENCE_PRECISION_HINT": "f32"}


@dataclass(frozen=True, slots=True)
class OpenVinoCheck:
    """How OpenVINO files compare with the network.

    Attributes:
        max_difference: Largest absolute difference of OpenVINO to ONNX Runtime.
        size_bytes: Bytes of both files.
        runtime: Name and version.
    """

    max_difference: float
    size_bytes: int
    runtime: str


def export_openvino(
    model: nn.Module, example_inputs: Sequence[Tensor], path: Path, *, tolerance: float = 1e-4
) -> OpenVinoCheck:
    """Write ``model`` as PATH.xml and PATH.bin in float32, with a free batch where it allows one.

    The files get their names only once OpenVINO computes what ONNX Runtime does, which has been
    compared with torch.

    Args:
        model: Any network; a copy of it is exported on the CPU in eval mode.
        example_inputs: Inputs with the batch in front.
        path: Ends in ``.xml``.
        tolerance: Largest difference allowed, relative to the largest output.

    Raises:
        ExportError: OpenVINO is not installed, can't express the network, or computes something
            else.
        LissomError: The files can't be written.
    """
    if path.suffix != ".xml":
        raise ExportError(f"{path}: OpenVINO's files are NAME.xml and NAME.bin; expected NAME.xml")
    openvino = _openvino()
    content, check = onnx_content(model, example_inputs, chains="merged")
    with tempfile.TemporaryDirectory(prefix="lissom-openvino-") as folder:
        xml = Path(folder) / path.name
        try:
            network = openvino.Core().read_model(content)
            openvino.save_model(network, xml, compress_to_fp16=False)
            found = openvino_call(xml)
        # OpenVINO's exceptions share no public base class.
        except Exception as error:
            raise ExportError(
                f"{path}: OpenVINO {openvino.__version__} can't express this network "
                f"({str(error).strip().splitlines()[0][:300]}); use --to onnx"
            ) from error
        written = {path: xml.read_bytes(), path.with_suffix(".bin"): _weights(xml)}
    session = OnnxSession(content)
    inputs = session.example_inputs(check.batches[-1])
    difference, scale = largest_difference(session(*inputs), found(*inputs))
    if not difference <= tolerance * scale:
        raise ExportError(
            f"{path}: OpenVINO differs from ONNX Runtime by {difference:.3g} where outputs reach "
            f"{scale:.3g}; no file was written: use --to onnx"
        )
    write_files(written)
    size = sum(len(part) for part in written.values())
    return OpenVinoCheck(difference, size, f"openvino {openvino.__version__}")


def openvino_call(path: Path, *, threads: int = 1) -> Callable[..., tuple[Tensor, ...]]:
    """Load files and give the network as a function of tensors, on the CPU in float32.

    Args:
        path: An .xml file with its .bin beside it, or an ONNX file.
        threads: Of the runtime.

    Raises:
        ExportError: OpenVINO is not installed.
    """
    compiled = _compiled(path, threads)

    def call(*inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = compiled([tensor.detach().numpy() for tensor in inputs])
        return tuple(torch.from_numpy(outputs[port]) for port in compiled.outputs)

    return call


def openvino_request(network: bytes | Path, *, threads: int = 1, profile: bool = False) -> Any:
    """Compile a network for the CPU and give a request that can be run again and again.

    Args:
        network: Content of an ONNX file, or the path of one or of an .xml file.
        threads: Of the runtime.
        profile: Whether ``profiling_info`` is filled.

    Raises:
        ExportError: OpenVINO is not installed, or can't express the network.
    """
    try:
        read = _openvino().Core().read_model(network)
        return _compiled(read, threads, PERF_COUNT=profile).create_infer_request()
    except RuntimeError as error:
        raise ExportError(
            f"OpenVINO {openvino_version()} can't run this network "
            f"({str(error).strip().splitlines()[0][:300]}); take another runtime"
        ) from error


def openvino_version() -> str:
    """Give the version that is installed.

    Raises:
        ExportError: None is.
    """
    return str(_openvino().__version__).partition("-")[0]


def _compiled(network: Any, threads: int, **more: bool) -> Any:
    configuration = {**_CONFIGURATION, "INFERENCE_NUM_THREADS": threads, **more}
    return _openvino().Core().compile_model(network, "CPU", configuration)


def _weights(xml: Path) -> bytes:
    return xml.with_suffix(".bin").read_bytes()


def _openvino() -> Any:
    try:
        return import_module("openvino")
    except ImportError:
        raise ExportError(
            "OpenVINO is not installed: pip install 'lissom[openvino]', or take another --runtime; "
            "for a file --to onnx, which OpenVINO reads, too"
        ) from None
