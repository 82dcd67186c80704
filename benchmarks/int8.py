"""int8 files: accuracy and latency beside float32, onnxruntime.quantization and NNCF.

python benchmarks/int8.py --data-dir DATA --weights-dir CHECKPOINTS

With --folders the int8 files of finished runs of the same network stand beside them. NNCF and
OpenVINO take part where they are installed.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import onnx
import torch
from bench import WEIGHTS
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from revision import revision
from torch import Tensor

from lissom.artifacts import INT8
from lissom.export.files import write_files
from lissom.export.int8 import Int8Settings, export_int8
from lissom.export.int8_check import count_int8, operators_as_run
from lissom.export.onnx import export_onnx
from lissom.export.openvino import openvino_call, openvino_request
from lissom.export.runtime import RUNTIME, OnnxSession
from lissom.measure.latency import Conditions
from lissom.models.catalog import build_model
from lissom.models.weights import load_weights
from lissom.pipeline.export_run import faster_in_float, int8_data
from lissom.pipeline.recipe_run import data_of
from lissom.recipe.recipe import DataSection, ModelSection, Recipe

TIMES = ("wall_ms", "cpu_ms")
OPENVINO = " in openvino"

Batches = Sequence[tuple[Tensor, ...]]


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Calibration images as onnxruntime.quantization asks for them."""

    def __init__(self, name: str, batches: Iterable[tuple[Tensor, ...]]) -> None:
        self._feeds = ({name: inputs[0].contiguous().numpy()} for inputs in batches)

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


def rival(plain: Path, path: Path, batches: Iterable[tuple[Tensor, ...]]) -> None:
    """Write what onnxruntime.quantization makes of the same file and images, in QDQ form."""
    model = onnx.load(plain)
    del model.graph.value_info[:]  # shapes as torch notes them stop its shape inference
    quantize_static(
        model,
        path,
        _Reader(model.graph.input[0].name, batches),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def nncf_rival(plain: Path, path: Path, batches: Iterable[tuple[Tensor, ...]]) -> None:
    """Write what NNCF makes of the same file and images, as OpenVINO files."""
    nncf, openvino = import_module("nncf"), import_module("openvino")
    images = [inputs[0].contiguous().numpy() for inputs in batches]
    data = nncf.Dataset(images)
    network = nncf.quantize(openvino.Core().read_model(plain), data, subset_size=len(images))
    openvino.save_model(network, path, compress_to_fp16=False)


def run_of(name: str, path: Path) -> Callable[[Tensor], Tensor]:
    """Give a network as a function, on one thread of the runtime that its name ends with."""
    if name.endswith(OPENVINO):
        network = openvino_call(path, threads=1)
        return lambda images: network(images)[0]
    session = OnnxSession(path)
    return lambda images: session(images)[0]


def call_of(name: str, path: Path, images: Tensor) -> Callable[[], object]:
    """Give one run on images that are there, without any conversion."""
    if name.endswith(OPENVINO):
        request, feed = openvino_request(path, threads=1), {0: images.numpy()}
        return partial(request.infer, feed, share_inputs=True)
    session = OnnxSession(path)
    return partial(session.run_arrays, session.feed((images,)))


def accuracies(
    files: Mapping[str, Path], test: Iterable[tuple[Tensor, Tensor]]
) -> dict[str, float]:
    """Give the share of right answers of each file, in percent."""
    runs = {name: run_of(name, path) for name, path in files.items()}
    right, images = dict.fromkeys(files, 0), 0
    for inputs, targets in test:
        images += len(targets)
        for name, run in runs.items():
            right[name] += int((run(inputs.contiguous()).argmax(dim=1) == targets).sum())
    return {name: 100 * count / images for name, count in right.items()}


def latencies(files: Mapping[str, Path], inputs: Tensor, runs: int) -> dict[str, dict[str, float]]:
    """Time the files in turn on one thread: wall clock, and the thread's own time.

    Each turn has an order of its own. The thread's own time leaves out that of other programs on
    the same core; OpenVINO computes in another one.
    """
    calls = {name: call_of(name, path, inputs) for name, path in files.items()}
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in files}
    names, generator = list(files), random.Random(0)
    for number in range(runs + 3):
        generator.shuffle(names)  # whoever ran before leaves its marks in the caches
        for name in names:
            wall, own = time.perf_counter(), time.thread_time()
            calls[name]()
            if number >= 3:
                times[name][0].append(1e3 * (time.perf_counter() - wall))
                times[name][1].append(1e3 * (time.thread_time() - own))
    return {
        name: {
            **{f"median_{kind}": median(one) for kind, one in zip(TIMES, both, strict=True)},
            **{f"least_{kind}": min(one) for kind, one in zip(TIMES, both, strict=True)},
        }
        for name, both in times.items()
    }


def with_openvino(files: Mapping[str, Path], folder: Path, batches: Batches) -> dict[str, Path]:
    """Add the same files in OpenVINO, and what NNCF makes of the float one; if they are there."""
    if find_spec("openvino") is None:
        return dict(files)
    both = dict(files) | {f"{name}{OPENVINO}": path for name, path in files.items()}
    del both[f"onnxruntime{OPENVINO}"]
    if find_spec("nncf") is not None:
        both[f"nncf{OPENVINO}"] = folder / "nncf.xml"
        nncf_rival(files["float"], both[f"nncf{OPENVINO}"], batches)
    return both


def measure(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """Give all figures of one network."""
    recipe = Recipe(
        model=ModelSection(name=f"lissom:{name}"),
        data=DataSection(
            name="cifar10",
            dir=given.data_dir,
            options={"calibration_images": given.images, "eval_batch_size": 128},
        ),
        budget={"macs": 0.5},
    )
    loaded = data_of(recipe)
    network = build_model(f"lissom:{name}")
    load_weights(network, given.weights_dir / WEIGHTS[name])
    data = int8_data(loaded)
    with tempfile.TemporaryDirectory() as folder:
        files = {one: Path(folder) / f"{one}.onnx" for one in ("float", "lissom", "onnxruntime")}
        export_onnx(network.eval(), loaded.example_inputs, files["float"])
        by_time = partial(faster_in_float, network, loaded.example_inputs, Conditions(runs=100))
        settings = Int8Settings(faster_in_float=by_time)
        check = export_int8(network, loaded.example_inputs, files["lissom"], data, settings)
        rival(files["float"], files["onnxruntime"], data.calibration)
        _, theirs = operators_as_run(files["onnxruntime"].read_bytes(), [])
        files |= {one.name: one / INT8 for one in given.folders}
        beside = with_openvino(files, Path(folder), data.calibration)
        timed = {
            str(batch): latencies(beside, torch.rand(batch, 3, 32, 32), runs)
            for batch, runs in ((1, given.runs), (32, max(5, given.runs // 10)))
        }
        return {
            "accuracy": accuracies(beside, loaded.data.test),
            "bytes": {one: path.stat().st_size for one, path in files.items()},
            "batch": timed,
            "int8_layers": f"{count_int8(check.runs)} of {len(check.runs)}",
            "operators": {"lissom": dict(check.operators), "onnxruntime": dict(theirs)},
            "agreement": check.float_agreement.top1,
            "kernel_agreement": check.kernel_agreement.top1,
            "tried": dict(check.tried),
        }


def arguments(line: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="holds cifar-10-batches-py")
    parser.add_argument("--weights-dir", type=Path, required=True, help="holds the checkpoints")
    parser.add_argument("--networks", nargs="+", default=["resnet20", "resnet56"])
    parser.add_argument(
        "--folders", nargs="+", type=Path, default=[], help="of finished runs that end in int8"
    )
    parser.add_argument("--images", type=int, default=512, help="for calibration")
    parser.add_argument("--runs", type=int, default=200, help="timed calls at batch 1")
    parser.add_argument("--results", type=Path, default=Path("results/int8.json"))
    return parser.parse_args(line)


def main() -> None:
    """Measure the networks one after another, and write each as soon as it is there."""
    given = arguments()
    torch.set_num_threads(1)
    results: dict[str, Any] = {"runtime": RUNTIME, "revision": revision()}
    for name in given.networks:
        results[name] = measure(name, given)
        write_files({given.results: json.dumps(results, indent=1).encode()})
        print(name, json.dumps(results[name], indent=1))


if __name__ == "__main__":
    main()
