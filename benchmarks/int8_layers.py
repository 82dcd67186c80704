"""int8 or float per layer: what the choice by the clock gains over int8 for all layers.

    python benchmarks/int8_layers.py --networks lissom:resnet20 runs/resnet8 --size 32

Networks are named as for ``--model`` or are folders of finished runs; there is a size of their
images for each, or one for all. Weights by name are random: times do not depend on them.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from revision import revision
from torch import nn

from lissom.artifacts import load
from lissom.export.files import write_files
from lissom.export.int8_observe import observe
from lissom.export.int8_operators import with_integer_kernels
from lissom.export.onnx import onnx_content
from lissom.export.qdq import Int8Layout, layer_names, tensors_to_observe, write_qdq
from lissom.export.runtime import RUNTIME
from lissom.measure.clock import RuntimeClock
from lissom.measure.guessed_int8 import GuessedInt8
from lissom.measure.latency import Conditions
from lissom.methods.int8_layers import faster_layers
from lissom.models.catalog import build_model
from lissom.quantization.activation_ranges import collect_ranges
from lissom.train.machine import processor_name

_IMAGES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", required=True)
    parser.add_argument("--size", type=int, nargs="+", default=[32], help="of the images")
    parser.add_argument("--cache", type=Path, help="where times of layers are kept")
    parser.add_argument("--results", type=Path, default=Path("results/int8_layers.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    sizes = given.size * len(given.networks) if len(given.size) == 1 else given.size
    if len(sizes) != len(given.networks):
        parser.error(f"--size: expected one or {len(given.networks)} numbers, got {len(sizes)}")
    rows: list[dict[str, Any]] = []
    for name, size in zip(given.networks, sizes, strict=True):
        rows.append({"network": name, "size": size, **_row(_network(name), size, given.cache)})
        print(json.dumps({key: one for key, one in rows[-1].items() if key != "evidence"}))
        where = {"machine": processor_name(), "runtime": RUNTIME, "commit": revision()}
        given.results.parent.mkdir(parents=True, exist_ok=True)
        write_files({given.results: json.dumps({**where, "rows": rows}, indent=1).encode()})


def _network(name: str) -> nn.Module:
    return (load(Path(name)) if Path(name).is_dir() else build_model(name)).eval()


def _row(network: nn.Module, size: int, cache: Path | None) -> dict[str, Any]:
    """Choose, and compare three files in turn: float32, all layers in int8, those chosen."""
    inputs = (torch.randn(_IMAGES, 3, size, size, generator=torch.Generator().manual_seed(0)),)
    plain = onnx_content(network, inputs)[0]
    content = with_integer_kernels(plain)
    ranges = collect_ranges(observe(content, tensors_to_observe(content), [inputs]), "min_max")
    layout = Int8Layout(ranges, frozenset(layer_names(content)))
    clock = RuntimeClock(Conditions(runs=100), (inputs[0][:1],), cache, GuessedInt8())
    start = time.perf_counter()
    floats, evidence = faster_layers(clock, network, (inputs[0][:1],), content, layout)
    seconds = time.perf_counter() - start
    chosen = write_qdq(content, Int8Layout(ranges, layout.layers - floats))
    every = write_qdq(content, layout)
    pairs = {"all": (every, plain), "chosen": (chosen, plain), "chosen_to_all": (chosen, every)}
    return {
        "layers": len(layout.layers),
        "in_float": sorted(floats),
        **{what: asdict(clock.file_ratio(*pair)) for what, pair in pairs.items()},
        "seconds": round(seconds, 1),
        "evidence": evidence,
    }


if __name__ == "__main__":
    main()
