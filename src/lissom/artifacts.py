"""The files of a run: written all or not at all, read back without pickle and training code.

plan.json        the decisions and where the network comes from
weights.safetensors  every value of the compressed network; shared tensors once
report.json      what was measured
recipe.yaml      the settings that reproduce the run
model.onnx       for other runtimes
model-int8.onnx  the same in int8, where the plan rounds activations
model.lsm        plan and values again, packed: small, and enough for ``load``
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as pack
from torch import Tensor, nn

from lissom.errors import LissomError, PackedFileError, PlanError, WeightsError
from lissom.export.files import write_files
from lissom.models.catalog import build_model
from lissom.packed.network import packed_network, stored_state
from lissom.packed.reader import PackedReader
from lissom.packed.smaller import SmallerFile, packed_within
from lissom.plan.build import apply_values, build, check_values
from lissom.plan.plan import Plan, tensor_shapes
from lissom.report.report import Report

PLAN = "plan.json"
WEIGHTS = "weights.safetensors"
REPORT = "report.json"
RECIPE = "recipe.yaml"
ONNX = "model.onnx"
PACKED = "model.lsm"
INT8 = "model-int8.onnx"


@dataclass(frozen=True, slots=True)
class Artifacts:
    """What there is to write; None leaves that file as it is.

    Attributes:
        model: The compressed network, for weights.safetensors.
        plan: For plan.json.
        report: For report.json.
        recipe: YAML text of the effective recipe, for recipe.yaml.
        onnx: Content of model.onnx.
        packed: Content of model.lsm.
        int8: Content of model-int8.onnx.
    """

    model: nn.Module | None = None
    plan: Plan | None = None
    report: Report | None = None
    recipe: str | None = None
    onnx: bytes | None = None
    packed: bytes | None = None
    int8: bytes | None = None


def save(out: Path, artifacts: Artifacts) -> dict[str, int]:
    """Write the files of a run into the folder ``out``, all of them or none.

    Returns:
        Bytes per file name.

    Raises:
        LissomError: The disk is full or ``out`` can't be written to.
    """
    contents: dict[str, bytes] = {}
    if artifacts.model is not None:
        contents[WEIGHTS] = weights_content(artifacts.model)
    if artifacts.plan is not None:
        contents[PLAN] = artifacts.plan.to_json().encode()
    if artifacts.recipe is not None:
        contents[RECIPE] = artifacts.recipe.encode()
    if artifacts.onnx is not None:
        contents[ONNX] = artifacts.onnx
    if artifacts.packed is not None:
        contents[PACKED] = artifacts.packed
    if artifacts.int8 is not None:
        contents[INT8] = artifacts.int8
    if artifacts.report is not None:  # last: where it stands, the run is finished
        contents[REPORT] = report_content(artifacts.report)
    write_files({out / name: content for name, content in contents.items()})
    return {name: len(content) for name, content in contents.items()}


def load(path: Path | str, *, model: nn.Module | None = None) -> nn.Module:
    """Give the compressed network of a run: the very bits that were saved, in eval mode.

    Args:
        path: The folder that a run wrote, or a packed file.
        model: A fresh original network, if the plan does not say where it comes from (a user's own
            class). It is not changed.

    Raises:
        PlanError: plan.json is missing or damaged, or does not fit the network: names the first
            difference.
        WeightsError: weights.safetensors is missing or damaged.
        PackedFileError: The packed file is damaged.
    """
    folder = Path(path)
    if folder.is_file() or (folder.suffix == ".lsm" and not folder.is_dir()):
        with _opened(folder) as reader:
            network = _network(Plan.from_json(reader.plan), folder, model)
            # What the file claims to hold may be far more than it is: nothing is read before.
            check_values(network, reader.promised())
            values = reader.tensors()
    else:
        plan, values = _read_folder(folder)
        network = _network(plan, folder, model)
    apply_values(network, values)
    return network.cpu().eval()


def pack_folder(folder: Path, limit: int | None = None) -> SmallerFile:
    """Give the packed file of a run, for ``load``; the run stays as it is.

    Args:
        folder: Where the run's plan and weights lie.
        limit: Bytes; levels in the file become cheaper until it fits. None: no value changes.

    Raises:
        BudgetError: The file can't be made that small.
        LissomError: The plan or the weights are missing, damaged, or of a type without a place.
    """
    plan, values = _read_folder(folder)
    try:
        if limit is None:
            return SmallerFile(packed_network(values, plan), {})
        return packed_within(values, plan, limit)
    except WeightsError as error:
        raise WeightsError(f"{folder / WEIGHTS}: {error}") from None


def unpack_file(path: Path, folder: Path) -> dict[str, int]:
    """Write plan.json and weights.safetensors of a packed file into ``folder``.

    Returns:
        Bytes per file name.

    Raises:
        PackedFileError: The packed file is damaged.
        PlanError: Its plan is of another version.
        LissomError: ``folder`` can't be written to, or a tensor is complex128.
    """
    with _opened(path) as reader:
        plan, values = Plan.from_json(reader.plan), reader.tensors()
    if plan.source is not None:
        with torch.random.fork_rng(devices=[]):
            plan = replace(plan, tensors=tensor_shapes(build_original(plan, path)))
    contents = {PLAN: plan.to_json().encode(), WEIGHTS: _safetensors(values)}
    write_files({folder / name: content for name, content in contents.items()})
    return {name: len(content) for name, content in contents.items()}


def load_plan(folder: Path) -> Plan:
    """Read the plan of a folder that a run wrote.

    Raises:
        PlanError: It is missing or damaged.
    """
    return Plan.from_json(_read_text(folder / PLAN, PlanError))


def load_report(folder: Path) -> Report:
    """Read the report of a folder that a run wrote.

    Raises:
        LissomError: It is missing or damaged.
    """
    path = folder / REPORT
    try:
        content = json.loads(_read_text(path, LissomError))
    except ValueError as error:
        raise LissomError(
            f"{path}: not JSON ({error}); run lissom compress again to write a new one"
        ) from None
    return Report.from_dict(content)


def report_content(report: Report) -> bytes:
    """Give the bytes of report.json."""
    return (json.dumps(report.to_dict(), indent=1, allow_nan=False) + "\n").encode()


def weights_content(model: nn.Module) -> bytes:
    """Give the bytes of weights.safetensors: each tensor once, under the first of its names.

    Raises:
        WeightsError: The state holds something that is not a tensor, or complex128.
    """
    # safetensors refuses views that share storage; a copy has its own.
    return _safetensors({name: value.clone() for name, value in stored_state(model).items()})


def _safetensors(values: Mapping[str, Tensor]) -> bytes:
    for name, value in values.items():
        if value.dtype == torch.complex128:
            raise WeightsError(f"{name}: is complex128, which {WEIGHTS} can't hold; use complex64")
    return pack(dict(values))


def build_original(plan: Plan, folder: Path) -> nn.Module:
    """Build the network that ``plan`` starts from, with fresh weights.

    Args:
        plan: Of a network whose source is known.
        folder: Where the plan lies, for messages.

    Raises:
        PlanError: The plan does not say where the network comes from.
    """
    if plan.source is None:
        raise PlanError(
            f"{folder if folder.is_file() else folder / PLAN}: does not say which network it "
            "changes (it was a Python object): pass a fresh one, as in "
            "lissom.load(folder, model=MyNetwork()), or --model package.module:factory"
        )
    return build_model(plan.source.spec, **dict(plan.source.arguments))


def _built(plan: Plan, folder: Path) -> nn.Module:
    """Carry the plan out on a network without values, where its constructor allows one."""
    try:
        with torch.device("meta"):
            network = build(build_original(plan, folder), plan)
    except (RuntimeError, NotImplementedError):  # the constructor computes with values
        return _built_with_values(plan, folder)
    stored = {id(value) for value in network.state_dict(keep_vars=True).values()}
    if all(id(buffer) in stored for buffer in network.buffers()):
        return network
    return _built_with_values(plan, folder)  # a buffer that no weights file holds


def _built_with_values(plan: Plan, folder: Path) -> nn.Module:
    try:
        return build(build_original(plan, folder), plan)
    except (RuntimeError, TypeError, ValueError) as error:
        raise PlanError(
            f"{folder}: the network that its plan starts from can't be built "
            f"({type(error).__name__}: {error}); copy the files again from where they were made"
        ) from error


def _read_folder(folder: Path) -> tuple[Plan, dict[str, Tensor]]:
    return load_plan(folder), _read_weights(folder / WEIGHTS)


def _network(plan: Plan, folder: Path, model: nn.Module | None) -> nn.Module:
    """Build the network that values belong to."""
    with torch.random.fork_rng(devices=[]):
        return build(model, plan) if model is not None else _built(plan, folder)


@contextmanager
def _opened(path: Path) -> Iterator[PackedReader]:
    try:
        with path.open("rb") as file:
            yield PackedReader(file, str(path))
    except OSError as error:
        raise PackedFileError(
            f"{path}: can't be read ({error.strerror or error}); expected a file that lissom pack "
            "wrote"
        ) from None


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise WeightsError(
            f"{path}: no such file; expected a folder that lissom compress wrote, with {PLAN} and "
            f"{WEIGHTS}"
        ) from None
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: cut short or not a safetensors file ({error}); copy the folder again from "
            "where it was made"
        ) from error


def _read_text(path: Path, kind: type[LissomError]) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise kind(f"{path}: no such file; expected a folder that lissom compress wrote") from None
    except (OSError, UnicodeDecodeError) as error:
        raise kind(
            f"{path}: can't be read ({error}); copy the folder again from where it was made"
        ) from error
