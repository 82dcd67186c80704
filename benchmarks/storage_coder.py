"""The packed file's coder alone: bytes and speed on quantized weights of trained networks.

    python benchmarks/storage_coder.py --weights-dir CHECKPOINTS [--nncodec PYTHON]
    python benchmarks/storage_coder.py --files OUT/model.lsm ... [--nncodec PYTHON]

--files takes the levels of trained and hardened networks. Without it, each layer is cut to one
density by a dead zone. ``near``: the step follows from the threshold, as a quantizer with a dead
zone has it. ``fine``: the step follows from the largest weight and the bits, as pruning and then
quantizing has it. --nncodec names the interpreter of an environment that holds nncodec, which needs
a numpy of its own; the best of its scans and parameter choices per tensor counts.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from lissom.export.files import write_files
from lissom.packed.reader import PackedReader
from lissom.packed.tensors import Levels, Packable
from lissom.packed.writer import pack

Array = NDArray[np.int32]
Result = TypeVar("Result")

WEIGHTS = {
    "resnet8": "cifar10_resnet8_mlperf.safetensors",
    "resnet20": "cifar10_resnet20.safetensors",
    "resnet56": "cifar10_resnet56.safetensors",
}
# (density, bits); no bits: near
QUANTIZERS = ((0.1, 0), (0.2, 0), (0.3, 0), (0.1, 4), (0.2, 3), (0.2, 4), (0.3, 5))
_DEAD_ZONE = 0.65

_NNCODEC = """
import importlib.util, json, pathlib, sys
import numpy as np
# The package imports torch, the coder itself does not need it.
root = importlib.util.find_spec("nncodec").submodule_search_locations[0]
sys.path.insert(0, str(pathlib.Path(root) / "extensions"))
import deepCABAC as rival
def size(q, choice, scan):
    coder = rival.Encoder()
    coder.initCtxModels(11, choice)
    skipped = np.zeros(q.shape[0], np.int32)
    off = [rival.HdspMode.AlwaysOff, np.array((0, 0), dtype=np.int8)]
    coder.encodeLayer(q, 0, scan, 0, 0, 0, skipped, *off, 0, 0)
    return len(coder.finish().tobytes())
held = np.load(sys.argv[1])
total = 0
for name in held.files:
    q = held[name]
    flat = q.reshape(len(q), -1)
    tries = [size(q, choice, 0) for choice in (0, 1)]
    tries += [size(flat, choice, scan) for choice in (0, 1) for scan in (0, 1, 2)]
    total += min(tries)
print(json.dumps(total))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights-dir", type=Path, help="holds the checkpoints")
    parser.add_argument("--files", type=Path, nargs="+", default=[], help="packed files")
    parser.add_argument("--results", type=Path, default=Path("results/storage_coder.json"))
    parser.add_argument("--networks", nargs="+", default=["resnet20", "resnet56"], choices=WEIGHTS)
    parser.add_argument("--nncodec", help="interpreter of an environment with nncodec")
    given = parser.parse_args()
    if not given.files and given.weights_dir is None:
        parser.error("--weights-dir CHECKPOINTS, or --files FILE ..., is needed")
    rows = []
    for facts, tensors in cases(given):
        rows.append(facts | coded(tensors, given.nncodec))
        print(json.dumps(rows[-1]), flush=True)
        write_files({given.results: (json.dumps(rows, indent=1) + "\n").encode()})


def cases(given: argparse.Namespace) -> Iterator[tuple[dict[str, Any], list[Array]]]:
    """Give the levels of every file, or of every network and quantizer."""
    for path in given.files:
        with path.open("rb") as file:
            held = dict(PackedReader(file, str(path)).packables())
        yield (
            {"file": path.name, "file_bytes": path.stat().st_size},
            [one.levels.numpy() for one in held.values() if isinstance(one, Levels)],
        )
    for network in () if given.files else given.networks:
        trained = load_file(given.weights_dir / WEIGHTS[network])
        weights = [value for value in trained.values() if value.ndim > 1]
        for density, bits in QUANTIZERS:
            quantizer = f"fine, {bits} bits" if bits else "near"
            facts = {"network": network, "density": density, "quantizer": quantizer}
            yield facts, [quantized(weight, density, bits) for weight in weights]


def coded(tensors: list[Array], nncodec: str | None) -> dict[str, Any]:
    """Code levels in every way."""
    packables: dict[str, Packable] = {
        str(i): Levels(torch.from_numpy(tensor), torch.tensor(1.0))
        for i, tensor in enumerate(tensors)
    }
    packed, writing = timed(partial(pack, packables))
    reader = PackedReader.from_bytes(packed.content)
    found, reading = timed(reader.tensors)
    if any((found[str(i)].numpy() != tensor).any() for i, tensor in enumerate(tensors)):
        raise AssertionError("the levels did not come back")
    count = sum(tensor.size for tensor in tensors)
    content = b"".join(tensor.astype(np.int8).tobytes() for tensor in tensors)
    return {
        "weights": count,
        "order_0_bytes": round(sum(map(order_zero_bits, tensors)) / 8),
        "bytes": packed.level_bytes,
        "nncodec_bytes": nncodec_bytes(nncodec, tensors) if nncodec else None,
        "lzma_bytes": len(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)),
        "encode_weights_per_s": round(count / writing),
        "decode_weights_per_s": round(count / reading),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one used",
    }


def quantized(weight: NDArray[np.float32], density: float, bits: int) -> Array:
    """Give levels of which about ``density`` are not zero."""
    sizes = np.abs(weight)
    threshold = np.quantile(sizes, 1 - density)
    if bits:
        largest = 2 ** (bits - 1) - 1
        step = np.quantile(sizes, 0.9995) / largest
        levels = np.clip(np.round(sizes / step), 1, largest)
    else:
        levels = np.floor(sizes / threshold * _DEAD_ZONE + 1 - _DEAD_ZONE)
    return np.where(sizes > threshold, np.sign(weight) * levels, 0).astype(np.int32)


def order_zero_bits(levels: Array) -> float:
    """Give the zeroth-order entropy of a layer; its table is not counted."""
    counts = np.unique(levels, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum())


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """Give what ``work`` gives, and the CPU seconds it took."""
    began = time.process_time()
    return work(), time.process_time() - began


def nncodec_bytes(python: str, tensors: list[Array]) -> int:
    """Give nncodec's bytes of the same levels, lossless, without its file's headers."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "levels.npz"
        np.savez(path, *tensors)
        done = subprocess.run(
            [python, "-c", _NNCODEC, str(path)], capture_output=True, text=True, check=True
        )
    return int(json.loads(done.stdout))


if __name__ == "__main__":
    main()
