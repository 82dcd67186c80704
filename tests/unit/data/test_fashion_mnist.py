import gzip
import struct

import numpy as np
import pytest

from lissom.data.load import load_data
from lissom.errors import DataError


def count(batches):
    return sum(len(targets) for _, targets in batches)


def idx(array):
    return (
        bytes((0, 0, 8, array.ndim))
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


@pytest.fixture
def fashion(tmp_path):
    random = np.random.default_rng(0)
    for part, images in (("train", 30), ("t10k", 10)):
        pixels = random.integers(256, size=(images, 28, 28), dtype=np.uint8)
        labels = (np.arange(images) % 10).astype(np.uint8)
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels)))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return tmp_path


def test_fashion_mnist(fashion):
    loaded = load_data("fashion_mnist", fashion)
    data = loaded.data
    assert (count(data.train), count(data.held_out), count(data.test)) == (27, 3, 10)
    assert loaded.example_inputs[0].shape == (1, 1, 28, 28)
    assert len(loaded.classes) == 10


def damage(change):
    def apply(path):
        path.write_bytes(change(path.read_bytes()))

    return apply


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train-images-idx3-ubyte.gz", lambda b: b[:-50], "truncated or not gzip"),
        ("train-images-idx3-ubyte.gz", lambda b: b"", "not an idx file"),
        ("train-labels-idx1-ubyte.gz", lambda b: b"junk", "truncated or not gzip"),
        ("train-labels-idx1-ubyte.gz", lambda b: gzip.compress(b"junk"), "not an idx file"),
        (
            "t10k-labels-idx1-ubyte.gz",
            lambda b: gzip.compress(gzip.decompress(b)[:-1]),
            "holds 9 values, its header says",
        ),
        (
            "t10k-labels-idx1-ubyte.gz",
            lambda b: gzip.compress(gzip.decompress(b)[:-1] + b"\x0b"),
            "holds the label 11",
        ),
    ],
)
def test_fashion_mnist_damaged(fashion, name, change, message):
    damage(change)(fashion / name)
    with pytest.raises(DataError, match=f"{name}: {message}"):
        load_data("fashion_mnist", fashion)


def test_fashion_mnist_missing(fashion):
    with pytest.raises(DataError, match="give the folder of its four files"):
        load_data("fashion_mnist")
    (fashion / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="no such file"):
        load_data("fashion_mnist", fashion)
