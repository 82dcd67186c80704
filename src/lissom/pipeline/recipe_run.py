"""A recipe, carried out in a folder."""

from __future__ import annotations

import difflib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lissom.artifacts import PLAN, REPORT, load, load_plan
from lissom.data.load import load_data
from lissom.data.options import LoadedData
from lissom.errors import DataError, ModelError, RecipeError
from lissom.extension import Method, find_method
from lissom.methods.catalog import METHODS, SETTINGS
from lissom.methods.hmc import VARIANTS, Hmc
from lissom.models.catalog import LISSOM_MODELS, build_model, preprocessing
from lissom.models.outside import build_from_factory, call_factory
from lissom.models.weights import load_weights
from lissom.pipeline.checks import check_classes, check_epochs
from lissom.pipeline.iterations import Iterated, iterated
from lissom.pipeline.job import Job
from lissom.pipeline.result import Preview, Result
from lissom.pipeline.settings import Settings
from lissom.pipeline.workspace import Workspace
from lissom.plan.plan import Plan, Source
from lissom.recipe.read import is_factory
from lissom.recipe.recipe import ModelSection, Recipe, Stage
from lissom.task import Classification, Data
from lissom.train.processes import Processes
from lissom.train.seeding import own_randomness, seed_all

WORK, LOGS = ".work", "logs"
_LIBRARIES = ("lissom:", "torchvision:", "timm:")


def run_recipe(
    recipe: Recipe, out: Path, *, resume: bool = False, say: Callable[[str], None] = print
) -> Result:
    """Carry a recipe out and write its files into ``out``.

    Args:
        recipe: What is asked for.
        out: A new or empty folder; with ``resume`` the folder of an interrupted run.
        resume: Continue where the run in ``out`` was interrupted.
        say: Takes a line of text at a time, for the user.

    Raises:
        RecipeError: ``out`` is not empty, or holds a run of another recipe.
        LissomError: Anything that a step refuses; nothing is left half-written.
    """
    check_out(out, resume=resume)
    workspace = Workspace(out / WORK, recipe.model_dump(mode="json"))
    workspace.check()
    methods = methods_of(recipe)
    job = job_of(recipe, say, out / LOGS)
    result = job.run(methods, recipe.limits, workspace)
    settings = [getattr(iterated(one).method, "settings", None) for one in methods]
    effective = recipe.to_yaml(settings)
    result.save(out, effective)
    if not Processes.here().first:
        return result
    for leftover in (workspace.folder, *out.glob(".*.partial")):  # the latter of a killed run
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    return result


def preview_recipe(recipe: Recipe, say: Callable[[str], None] = print) -> Preview:
    """Decide what a recipe would do, without building, training or writing anything."""
    return job_of(recipe, say, Path(LOGS)).preview(methods_of(recipe), recipe.limits)


def check_out(out: Path, *, resume: bool) -> None:
    """Refuse to write over anything.

    Raises:
        RecipeError: ``out`` is a file, is not empty, or has nothing to resume.
    """
    if out.exists() and not out.is_dir():
        raise RecipeError(f"{out}: is a file, expected a folder; choose another --out")
    content = sorted(path.name for path in out.iterdir()) if out.exists() else []
    if (out / REPORT).exists():
        raise RecipeError(f"{out}: holds a finished run; choose another --out")
    if WORK in content and not resume:
        raise RecipeError(
            f"{out}: is not empty, it holds an interrupted run; continue it with --resume, or "
            "choose another --out"
        )
    if content and WORK not in content:
        what = "holds no interrupted run, but" if resume else "is not empty, it holds"
        raise RecipeError(f"{out}: {what} {content[0]}; choose another --out")


def job_of(recipe: Recipe, say: Callable[[str], None], logs: Path) -> Job:
    """Load network, weights, teacher and data of a recipe; random weights are those of its seed.

    Args:
        recipe: What is asked for.
        say: Takes a line of text at a time, for the user.
        logs: Folder for the course of its trainings, if the recipe asks for that.
    """
    with own_randomness():
        seed_all(recipe.seed)
        model, base = network_of(recipe.model)
    if recipe.model.weights is None and recipe.model.name.startswith(_LIBRARIES):
        say(f"note: no weights are given, so {recipe.model.name} starts from random ones")
    loaded = data_of(recipe)
    settings = Settings(
        recover=recipe.train_settings(),
        round_to=recipe.round_to,
        ignore=recipe.ignore,
        teacher=None if recipe.teacher is None else network_of(recipe.teacher)[0].eval(),
        base=base,
        cache=default_cache(),
        latency=recipe.conditions(),
        allow_slower=recipe.allow_slower,
        logs=logs,
        say=say,
    )
    inputs = inputs_of(recipe.input) if recipe.input else loaded.example_inputs
    check_classes(model, inputs, len(loaded.classes))
    return Job.start(model, inputs, loaded.data, Classification(), settings)


def network_of(section: ModelSection) -> tuple[nn.Module, Plan]:
    """Build a network, load its weights, and give the plan that leads to it from its original.

    Raises:
        ModelError: There is no such network.
        WeightsError: The weights are missing, damaged or do not fit.
    """
    name, arguments = section.name, section.arguments
    if name.startswith(_LIBRARIES):
        model = build_model(name, **arguments)
        base = Plan.starting_from(model, Source(name, tuple(sorted(arguments.items()))))
    elif (Path(name) / PLAN).is_file():
        model, base = _compressed(Path(name), arguments)
    elif ":" in name:
        model = build_from_factory(name, **arguments)
        base = Plan.starting_from(model)
    else:
        raise ModelError(_unknown_network(name))
    if section.weights is not None:
        load_weights(model, section.weights)
    return model, base


def _compressed(folder: Path, arguments: Mapping[str, Any]) -> tuple[nn.Module, Plan]:
    """Load the network of a run; ``factory`` makes the original of a user's own."""
    unknown = sorted(arguments.keys() - {"factory"})
    if unknown:
        raise RecipeError(
            f"model.arguments.{unknown[0]}: {folder} is a run, whose network is as it was "
            "compressed; the only argument is factory (package.module:factory)"
        )
    own = build_from_factory(arguments["factory"]) if "factory" in arguments else None
    return load(folder, model=own), load_plan(folder)


def _unknown_network(name: str) -> str:
    near = difflib.get_close_matches(name, LISSOM_MODELS, n=1)
    hint = f" (did you mean lissom:{near[0]}?)" if near else ""
    return (
        f"model {name!r}: names no network{hint}; expected lissom:NAME, torchvision:NAME, "
        f"timm:NAME, package.module:factory, or a folder that lissom compress wrote"
    )


def data_of(recipe: Recipe) -> LoadedData:
    """Load a recipe's data set, normalised as its network expects.

    Raises:
        DataError: The set is unknown, missing or unreadable, or a factory gave something else.
    """
    name, folder = recipe.data.name, recipe.data.dir
    if is_factory(name):
        made: Any = call_factory(name)
        if isinstance(made, Data) and recipe.input:
            made = LoadedData(made, inputs_of(recipe.input), ())
        if not isinstance(made, LoadedData):
            raise DataError(
                f"{name}: gave a {type(made).__name__}; expected a LoadedData, or a Data together "
                "with the shape of the inputs (--input 1x3x224x224)"
            )
        return made
    options = recipe.data_options()
    wanted = preprocessing(recipe.model.name)
    if wanted is not None and name == "cifar10" and options.mean is None and options.std is None:
        options = replace(options, **asdict(wanted))
    return load_data(name, folder, options)


def inputs_of(shapes: str) -> tuple[Tensor, ...]:
    """Make zeros of the shapes ``1x3x224x224`` (several: separated by commas).

    Raises:
        RecipeError: Not such a text.
    """
    try:
        sizes = [[int(size) for size in shape.split("x")] for shape in shapes.split(",")]
    except ValueError:
        sizes = []
    if not sizes or any(len(shape) < 2 or min(shape) < 1 for shape in sizes):
        raise RecipeError(
            f"input {shapes!r}: expected sizes of at least 1 with the batch in front, such as "
            "1x3x224x224 (several inputs: separated by commas)"
        )
    return tuple(torch.zeros(1, *shape[1:]) for shape in sizes)


def methods_of(recipe: Recipe) -> tuple[Method | Iterated, ...]:
    """Make the methods of a recipe's stages with their settings.

    Raises:
        RecipeError: An unknown method, an option that it has not got, or a method that can't be
            iterated.
    """
    methods: list[Method | Iterated] = []
    known = {**METHODS, **dict.fromkeys(VARIANTS, Hmc)}
    for index, stage in enumerate(recipe.stages):
        cls: Any = find_method(stage.method, known)
        settings = SETTINGS.get(stage.method)
        where = f"stages.{index}"
        method = cls(stage.settings(settings, where)) if settings else cls(**stage.options)
        if recipe.model.weights is not None and getattr(method, "from_scratch", False):
            raise RecipeError(
                f"model.weights: {recipe.model.weights} is given, but {where} starts from scratch; "
                "drop the weights, or start=scratch"
            )
        methods.append(method if stage.iterations == 1 else _iterated(method, stage, where))
    check_epochs(recipe.train_settings().epochs, methods)
    return tuple(methods)


def _iterated(method: Method, stage: Stage, where: str) -> Iterated:
    try:
        return Iterated(method, stage.iterations, stage.iteration_epochs)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from None


def default_cache() -> Path:
    """Give the folder of measured sensitivities: $LISSOM_CACHE, or lissom in the user's cache."""
    given = os.environ.get("LISSOM_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lissom"
