"""Options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str | None,
    typer.Option(
        help="lissom:NAME, torchvision:NAME, timm:NAME, package.module:factory, "
        "or a folder that lissom wrote.",
        metavar="M",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(help=".safetensors, .pt or .pth file for --model.", metavar="FILE"),
]
Input = Annotated[
    str | None,
    typer.Option(
        "--input", help="Shapes of the network's inputs, batch first: 1x3x224x224.", metavar="SHAPE"
    ),
]
AllowImport = Annotated[
    bool,
    typer.Option("--allow-import", help="Let the recipe name package.module:factory (runs it)."),
]
Batch = Annotated[int, typer.Option(help="Samples per call.", min=1)]
Runtime = Annotated[
    str | None,
    typer.Option(
        help="What latency is measured in: onnxruntime, openvino, torch or torch-compiled.",
        metavar="R",
    ),
]
Threads = Annotated[int, typer.Option(help="Threads of the runtime.", min=1)]
