"""One network as a file for another runtime: loaded, exported, run, timed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor, nn

from lissom.artifacts import ONNX, RECIPE, load, load_plan
from lissom.data.options import LoadedData
from lissom.errors import ExportError, RecipeError
from lissom.export.executorch import ExecutorchCheck, executorch_call, export_executorch
from lissom.export.int8 import Int8Check, Int8Data, Int8Settings, export_int8
from lissom.export.onnx import OnnxCheck, export_onnx
from lissom.export.openvino import OpenVinoCheck, export_openvino, openvino_call
from lissom.export.qdq import Int8Layout
from lissom.export.runtime import OnnxSession
from lissom.export.torch_program import TorchCheck, export_torch
from lissom.measure.clock import RuntimeClock
from lissom.measure.guessed_int8 import GuessedInt8
from lissom.measure.latency import Conditions, Latency, compare_latency, onnx_latency
from lissom.methods.int8_layers import faster_layers
from lissom.packed.reader import PackedReader
from lissom.pipeline.int8_file import planned_layout
from lissom.pipeline.recipe_run import data_of, default_cache, inputs_of, network_of
from lissom.plan.plan import Plan
from lissom.recipe.read import Factories, read_recipe
from lissom.recipe.recipe import DataSection, ModelSection, Recipe
from lissom.task import Classification, first_inputs

TARGETS = ("onnx", "onnx-int8", "torch-export", "openvino", "executorch")
CALIBRATION_IMAGES = 512
_CHECKED_IMAGES = 1000
_RUNS = 50  # before any is called faster

Check: TypeAlias = OnnxCheck | Int8Check | TorchCheck | OpenVinoCheck | ExecutorchCheck


@dataclass(frozen=True, slots=True)
class ExportWish:
    """What shall be exported, and to what.

    Attributes:
        source: A run's folder, a packed file, or the name of a network.
        target: One of ``TARGETS``.
        out: The file to write.
        model: The original of a run of a user's own network; None: the plan names it.
        weights: For a network by name.
        input: Shapes of its inputs; None: those of the run or of the data.
        data: For calibration; None: the run's own, from its recipe.
        data_dir: Folder of that set; None: the recipe's.
        calibration_images: How many of them.
        int8: How the network is rounded.
        allow_slower: Whether layers are rounded that are slower so.
        allow_import: Whether the run's recipe may name functions of the user's own (runs them).
    """

    source: str
    target: str
    out: Path
    model: str | None = None
    weights: Path | None = None
    input: str | None = None
    data: str | None = None
    data_dir: Path | None = None
    calibration_images: int = CALIBRATION_IMAGES
    int8: Int8Settings = field(default_factory=Int8Settings)
    allow_slower: bool = False
    allow_import: bool = False

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise RecipeError(f"--to {self.target}: expected {', '.join(TARGETS)}")
        given = {
            "--data": self.data is not None,
            "--data-dir": self.data_dir is not None,
            "--calibration-images": self.calibration_images != CALIBRATION_IMAGES,
            "the options of rounding": self.int8 != Int8Settings(),
            "--allow-slower": self.allow_slower,
            "--allow-import": self.allow_import,
        }
        without_effect = [name for name, is_given in given.items() if is_given]
        if self.target != "onnx-int8" and without_effect:
            raise RecipeError(
                f"--to {self.target}: {', '.join(without_effect)} would have no effect, nothing is "
                "rounded; drop them, or use --to onnx-int8"
            )


@dataclass(frozen=True, slots=True)
class Exported:
    """A file that has been written and has run.

    Attributes:
        path: Where it lies.
        check: Its comparison with the network.
        float_onnx: Check of the network as ONNX in float32, with which it is compared.
        latency: By name, ``fp32 ONNX`` first; empty where the runtime is torch.
        sizes: Bytes of the files of ``latency``.
    """

    path: Path
    check: Check
    float_onnx: OnnxCheck
    latency: dict[str, Latency]
    sizes: dict[str, int]


def run_export(wish: ExportWish, conditions: Conditions) -> Exported:
    """Export one network, run the file, and time it beside the network as ONNX in float32.

    Args:
        wish: What and how.
        conditions: Of the timing.

    Raises:
        RecipeError: Inputs or data are not known.
        LissomError: What loading, calibrating and exporting refuse.
    """
    network = _network(wish)
    loaded = _data(wish) if wish.target == "onnx-int8" else None
    inputs = _inputs(wish, loaded)
    with tempfile.TemporaryDirectory(prefix="lissom-export-") as scratch:
        path = Path(scratch) / "float.onnx"
        plain = export_onnx(network, inputs, path)
        check = _export(wish, network, inputs, loaded, conditions)
        latency = _timed(wish, path, conditions)
    size = plain.size_bytes if isinstance(check, OnnxCheck) else check.size_bytes
    sizes = {"fp32 ONNX": plain.size_bytes, wish.target: size}
    return Exported(wish.out, check, plain, latency, {name: sizes[name] for name in latency})


def _export(
    wish: ExportWish,
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    loaded: LoadedData | None,
    conditions: Conditions,
) -> Check:
    if loaded is not None:
        layout = _planned(wish)
        by_time = partial(faster_in_float, network, inputs, conditions)
        how = replace(wish.int8, faster_in_float=None if wish.allow_slower else by_time)
        return export_int8(network, inputs, wish.out, int8_data(loaded), how, layout)
    writers: dict[str, Callable[..., Any]] = {
        "onnx": export_onnx,
        "torch-export": export_torch,
        "openvino": export_openvino,
        "executorch": partial(export_executorch, batch=conditions.batch),
    }
    return writers[wish.target](network, inputs, wish.out)


def faster_in_float(
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    conditions: Conditions,
    content: bytes,
    layout: Int8Layout,
) -> tuple[frozenset[str], dict[str, Any]]:
    """Name the layers that stay float because the file is faster so on this machine.

    Args:
        network: In eval mode.
        inputs: Of the network, batch in front.
        conditions: Threads, batch, runs; ONNX Runtime.
        content: The network as ``write_qdq`` takes it.
        layout: Of which they leave.

    Returns:
        They, and what was measured, JSON-ready.
    """
    enough = replace(conditions, runs=max(conditions.runs, _RUNS))
    clock = RuntimeClock(enough, inputs, default_cache(), GuessedInt8())
    return faster_layers(clock, network, inputs, content, layout)


def _planned(wish: ExportWish) -> Int8Layout | None:
    """Give what the source's plan rounds; None where the wish is about other ranges."""
    anew = wish.int8 != Int8Settings() or wish.calibration_images != CALIBRATION_IMAGES
    anew |= wish.allow_slower
    plan = None if anew or wish.data is not None else _plan(Path(wish.source))
    return None if plan is None else planned_layout(plan)


def int8_data(loaded: LoadedData) -> Int8Data:
    """Give calibration and held-out inputs of a classifier's data set."""
    task = Classification()
    return Int8Data(
        calibration=[task.inputs(batch) for batch in loaded.data.calibration],
        held_out=first_inputs(task, loaded.data.held_out, _CHECKED_IMAGES),
        distance=task.distance,
    )


def _timed(wish: ExportWish, plain: Path, conditions: Conditions) -> dict[str, Latency]:
    inputs = OnnxSession(plain).example_inputs(conditions.batch)
    if wish.target in ("onnx", "onnx-int8"):
        files = {"fp32 ONNX": plain}
        if wish.target == "onnx-int8":
            files[wish.target] = wish.out
        return onnx_latency(files, inputs, conditions)
    if wish.target == "torch-export":
        return {}
    session = OnnxSession(plain, threads=conditions.threads)
    call = openvino_call if wish.target == "openvino" else executorch_call
    other = call(wish.out, threads=conditions.threads)
    calls = {"fp32 ONNX": lambda: session(*inputs), wish.target: lambda: other(*inputs)}
    return compare_latency(calls, conditions)


def _network(wish: ExportWish) -> nn.Module:
    source = Path(wish.source)
    if source.is_dir() or source.is_file():
        if wish.weights is not None:
            raise RecipeError(f"--weights: {source} has weights of its own; drop the option")
        own = None if wish.model is None else network_of(ModelSection(name=wish.model))[0]
        return load(source, model=own)
    if wish.model is not None:
        raise RecipeError(
            f"--model: names the original of a folder or packed file, and {wish.source} is "
            "neither; drop the option"
        )
    if source.suffix == ".lsm":
        raise ExportError(f"{source}: no such file; expected one that lissom pack wrote")
    return network_of(ModelSection(name=wish.source, weights=wish.weights))[0].eval()


def _data(wish: ExportWish) -> LoadedData:
    """Load the calibration data: what the user names, else what the run was made with."""
    recipe_file = Path(wish.source) / RECIPE
    images = {"calibration_images": wish.calibration_images}
    if wish.data is None and recipe_file.is_file():
        overrides: list[tuple[str, Any]] = [("data.calibration_images", wish.calibration_images)]
        if wish.data_dir is not None:
            overrides.append(("data.dir", str(wish.data_dir)))
        factories: Factories = "allowed" if wish.allow_import else "refused"
        return data_of(read_recipe(recipe_file, overrides, factories=factories))
    if wish.data is None:
        raise RecipeError(
            "--to onnx-int8 needs images to calibrate with: give --data and --data-dir, as for "
            "lissom compress"
        )
    return data_of(
        Recipe(
            model=ModelSection(name=_original(wish)),
            data=DataSection.model_validate(
                {"name": wish.data, "dir": wish.data_dir, "options": images}
            ),
            budget={"macs": 0.5},  # a recipe must name one; nothing is compressed here
            input=wish.input or _shapes(Path(wish.source) / ONNX),
        )
    )


def _shapes(path: Path) -> str | None:
    """Write the shapes of a file's inputs as a recipe does; None if there is no such file."""
    if not path.is_file():
        return None
    inputs = OnnxSession(path).example_inputs(1)
    return ",".join("x".join(map(str, one.shape)) for one in inputs)


def _original(wish: ExportWish) -> str:
    """Name the network that the source started from: it says how images are normalised."""
    plan = _plan(Path(wish.source))
    if plan is None:
        return wish.source
    return plan.source.spec if plan.source is not None else wish.model or wish.source


def _plan(source: Path) -> Plan | None:
    """Read the plan of a folder or packed file; None for a network by name."""
    if not source.exists():
        return None
    if source.is_dir():
        return load_plan(source)
    with source.open("rb") as file:
        return Plan.from_json(PackedReader(file, str(source)).plan)


def _inputs(wish: ExportWish, loaded: LoadedData | None) -> tuple[Tensor, ...]:
    if wish.input is not None:
        return inputs_of(wish.input)
    if loaded is not None:
        return loaded.example_inputs
    path = Path(wish.source) / ONNX
    if path.is_file():
        return OnnxSession(path).example_inputs(1)
    raise RecipeError(f"{wish.source}: give the shape of the network's input: --input 1x3x32x32")
