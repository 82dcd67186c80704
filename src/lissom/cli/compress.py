"""``lissom compress``: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lissom.cli import options
from lissom.errors import RecipeError

if TYPE_CHECKING:
    from lissom.recipe.recipe import Recipe


def compress(
    *,
    recipe: Annotated[
        Path | None,
        typer.Argument(help="YAML recipe; the options below override it.", metavar="RECIPE.yaml"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="New folder for the results (needed without --dry-run).", metavar="DIR"),
    ] = None,
    model: options.Model = None,
    weights: options.Weights = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="digits, cifar10, fashion_mnist, image_folder or package.module:factory.",
            metavar="D",
        ),
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the data set's files.")] = None,
    input_shape: options.Input = None,
    method: Annotated[
        str | None, typer.Option(help="hmc, nahc, ahc, ahc_sum, edp, ajc or int8.", metavar="M")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="For example macs=0.5, macs=62.7M,params=4x, size=25x (bytes of the file), "
            "latency=0.5 (measured here) or max_drop=1.0 (points of the metric).",
            metavar="LIMITS",
        ),
    ] = None,
    bits: Annotated[
        str | None,
        typer.Option(
            help="weights=8,activations=8: end in a file in int8 (a stage of method int8 after "
            "the others); activations=8 keeps the levels of ajc.",
            metavar="BITS",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of recovery.", min=0)] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.", min=0)] = None,
    device: Annotated[
        str | None, typer.Option("--device", "--accelerator", help="auto, cpu, cuda, cuda:1, ...")
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option(help="Processes that train together, one device each.", min=1),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(help="How they do: auto, ddp, or ddp_find_unused_parameters_true."),
    ] = None,
    log: Annotated[
        str | None,
        typer.Option(
            help="Course of the trainings, in DIR/logs: csv, tensorboard, or both (under "
            "torchrun, which has options of that name: --set recover.log=csv)."
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="Network to distil from instead of the original (its weights: "
            "--set teacher.weights=FILE).",
            metavar="M",
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            help="Layer whose output channels and rank stay (may be repeated).", metavar="LAYER"
        ),
    ] = None,
    round_to: Annotated[
        str | None, typer.Option(help="Alignment of channels and ranks: auto or a number.")
    ] = None,
    runtime: options.Runtime = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of the runtime when latency is measured.", min=1)
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Samples per call when latency is measured.", min=1)
    ] = None,
    allow_slower: Annotated[
        bool,
        typer.Option(
            "--allow-slower", help="Decide what saves the budget's units but costs time, too."
        ),
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Any setting of a recipe: recover.learning_rate=0.01, stages.0.tau=0.3, "
            "stages.0.iterations=3 (may be repeated).",
            metavar="PLACE=VALUE",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is reachable and planned; train nothing.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted run in the same --out.")
    ] = False,
    allow_import: options.AllowImport = False,
) -> None:
    """Make a trained network smaller.

    It is compressed under a budget, recovered and measured; DIR gets plan.json,
    weights.safetensors, report.json, recipe.yaml and model.onnx; model-int8.onnx with --bits; and
    model.lsm, all in one small file, where weights are quantized or the budget limits size.
    """
    if out is None and not dry_run:
        raise RecipeError("--out: missing; give a new folder for the results, or --dry-run")
    given = {
        "model": model,
        "model.weights": _text(weights),
        "data": data,
        "data.dir": _text(data_dir),
        "input": input_shape,
        "stages": _stages(recipe, method, bits),
        "budget": budget,
        "recover.epochs": epochs,
        "seed": seed,
        "device": device,
        "recover.devices": devices,
        "recover.strategy": strategy,
        "recover.log": log,
        "teacher": teacher,
        "ignore": ignore or None,
        "round_to": round_to,
        "latency.runtime": runtime,
        "latency.threads": threads,
        "latency.batch": batch,
        "allow_slower": allow_slower or None,
    }
    wanted = _recipe(recipe, given, settings or [], factories=allow_import)
    if out is None or dry_run:
        _preview(wanted)
    else:
        _run(wanted, out, resume=resume)


def _stages(recipe: Path | None, method: str | None, bits: str | None) -> list[Any] | None:
    if bits is None:
        return None if method is None else [method]
    from lissom.recipe.read import parse_bits

    if recipe is not None and method is None:
        raise RecipeError(
            f"--bits: {recipe} says what the stages are; add {{method: int8}} there as the last "
            "one, or give --method, too"
        )
    return [method or "hmc", parse_bits(bits)]


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _recipe(
    path: Path | None, given: dict[str, Any], settings: list[str], *, factories: bool
) -> Recipe:
    from lissom.recipe.read import parse_override, read_recipe

    if path is None and (given["model"] is None or given["data"] is None):
        raise RecipeError(
            "nothing to compress: give a RECIPE.yaml, or --model and --data (and --budget)"
        )
    overrides = [(place, value) for place, value in given.items() if value is not None]
    overrides += [parse_override(text) for text in settings]
    return read_recipe(path, overrides, factories="allowed" if factories else "refused")


def _run(recipe: Recipe, out: Path, *, resume: bool) -> None:
    from lissom.cli.console import say, show
    from lissom.pipeline.recipe_run import run_recipe
    from lissom.progress import speaks
    from lissom.report.terminal import layout

    result = run_recipe(recipe, out, resume=resume, say=say)
    if not speaks():
        return
    show(layout(result.report))
    typer.echo(f"\nWritten: {out}")


def _preview(recipe: Recipe) -> None:
    from lissom.cli.console import say, show
    from lissom.pipeline.recipe_run import preview_recipe
    from lissom.report.preview import layout
    from lissom.report.steps import filled
    from lissom.report.terminal import plain_table

    found = preview_recipe(recipe, say)
    if len(found.steps) > 1:
        show("Steps, if each comes out as asked:")
        show(filled(plain_table(), found.steps, None))
        show("\nThe first of them:")
    show(layout(found.graph, found.proposal, found.feasibility.smallest))
