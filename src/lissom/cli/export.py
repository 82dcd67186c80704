"""``lissom export``: a network as a file for another runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lissom.cli import options

if TYPE_CHECKING:
    from lissom.export.executorch import ExecutorchCheck
    from lissom.export.int8 import Int8Check
    from lissom.pipeline.export_run import Exported


Target = Literal["onnx", "onnx-int8", "torch-export", "openvino", "executorch"]
Estimator = Literal["auto", "min_max", "percentile", "mse"]
Use = Literal["auto", "always", "never"]


def export(
    *,
    source: Annotated[
        str,
        typer.Argument(
            help="Folder that lissom compress wrote, packed file, or a network as for --model.",
            metavar="DIR_OR_FILE",
        ),
    ],
    to: Annotated[Target, typer.Option(help="What to write.")],
    out: Annotated[Path, typer.Option(help="The file to write.", metavar="FILE")],
    model: options.Model = None,
    weights: options.Weights = None,
    input_shape: options.Input = None,
    data: Annotated[
        str | None,
        typer.Option(help="Calibration images; default: those of the run.", metavar="D"),
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the data set's files.")] = None,
    calibration_images: Annotated[
        int, typer.Option(help="How many of the training images.", min=1)
    ] = 512,
    estimator: Annotated[
        Estimator,
        typer.Option(
            help="Of activation ranges; auto, here and below: what measurably harms least."
        ),
    ] = "auto",
    equalize: Annotated[Use, typer.Option(help="Cross-layer equalization.")] = "auto",
    correct_bias: Annotated[Use, typer.Option(help="Bias correction.")] = "auto",
    reduce_range: Annotated[
        bool, typer.Option("--reduce-range", help="7-bit weights, for CPUs without VNNI.")
    ] = False,
    keep_float: Annotated[
        int, typer.Option(help="So many of the most harmful layers stay float.", min=0)
    ] = 0,
    max_harm: Annotated[
        float | None,
        typer.Option(help="Layers stay float until int8 harms no more (nats per image).", min=0),
    ] = None,
    allow_slower: Annotated[
        bool,
        typer.Option(
            "--allow-slower",
            help="Round layers that are slower in int8 here, too; with ranges observed anew.",
        ),
    ] = False,
    allow_import: options.AllowImport = False,
    batch: options.Batch = 1,
    threads: options.Threads = 1,
    runs: Annotated[int, typer.Option(help="Timed calls per network.", min=2)] = 50,
    layers: Annotated[
        bool, typer.Option("--layers", help="Say for every layer as what it runs.")
    ] = False,
) -> None:
    """Write a network for another runtime, run it there and time it.

    onnx-int8 is made from calibration images, without training; executorch takes batches of
    --batch alone. FILE gets its name only once it computes what it should.
    """
    from lissom.export.int8 import Int8Settings
    from lissom.export.int8_choice import FloatBudget
    from lissom.measure.latency import Conditions
    from lissom.pipeline.export_run import ExportWish, run_export

    wish = ExportWish(
        source=source,
        target=to,
        out=out,
        model=model,
        weights=weights,
        input=input_shape,
        data=data,
        data_dir=data_dir,
        calibration_images=calibration_images,
        int8=Int8Settings(
            estimator=estimator,
            equalize=equalize,
            correct_bias=correct_bias,
            reduce_range=reduce_range,
            budget=FloatBudget(keep_float, max_harm),
        ),
        allow_slower=allow_slower,
        allow_import=allow_import,
    )
    _print(run_export(wish, Conditions(batch=batch, threads=threads, runs=runs)), layers)


def _print(done: Exported, layers: bool) -> None:
    from lissom.cli.console import show
    from lissom.export.executorch import ExecutorchCheck
    from lissom.export.int8 import Int8Check
    from lissom.export.onnx import OnnxCheck
    from lissom.report.latency import layout

    check = done.check
    size = done.float_onnx.size_bytes if isinstance(check, OnnxCheck) else check.size_bytes
    plain = done.float_onnx.size_bytes
    typer.echo(f"{done.path}: {size:,} bytes (ONNX in float32: {plain:,}, {plain / size:.2f}x)")
    if isinstance(check, Int8Check):
        _print_int8(check, layers)
    else:
        typer.echo(f"largest difference {check.max_difference:.2g}, checked by running the file")
    if isinstance(check, ExecutorchCheck):
        _print_executorch(check)
    if done.latency:
        typer.echo()
        show(layout({name: one.to_dict() for name, one in done.latency.items()}, done.sizes))


def _print_executorch(check: ExecutorchCheck) -> None:
    typer.echo(f"{check.runtime}: {check.delegated} parts in XNNPACK, batch {check.batch} (fixed)")
    if check.portable:
        outside = ", ".join(f"{name} {count}" for name, count in check.portable.items())
        typer.echo(f"slower, outside of it: {outside}")


def _print_int8(check: Int8Check, layers: bool) -> None:
    from lissom.export.int8_check import FLOAT, count_int8
    from lissom.report.int8_file import for_time

    close = check.float_agreement
    typer.echo(
        f"same answer as the float network on {100 * close.top1:.2f} % of {close.samples:,} "
        f"held-out images, largest difference {close.max_difference:.2g} where outputs reach "
        f"{close.scale:.3g}, harm {check.harm:.3g} nats per image on the calibration images"
    )
    typer.echo(
        f"integer kernels and the file's own arithmetic: same answer on "
        f"{100 * check.kernel_agreement.top1:.2f} %, mean difference "
        f"{check.kernel_agreement.mean_difference:.2g}"
    )
    counts = f"int8: {count_int8(check.runs)} of {len(check.runs)} layers"
    typer.echo("; ".join([counts, *for_time(check.faster_in_float)]))
    for name, kind in check.runs.items():
        if layers or kind == FLOAT or name in check.kept_float:
            kept = " (kept)" if name in check.kept_float else ""
            harm = f", harm alone {check.harms[name]:.3g}" if name in check.harms else ""
            typer.echo(f"  {name}: {kind}{kept}{harm}")
    operators = ", ".join(f"{kind} {count}" for kind, count in sorted(check.operators.items()))
    typer.echo(f"as run by ONNX Runtime: {operators}")
    for how, loss in check.tried.items():
        typer.echo(f"  tried: {how}: harm {loss:.3g}")
