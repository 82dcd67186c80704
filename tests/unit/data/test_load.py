import gzip
import pickle
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from lissom.data.load import load_data
from lissom.data.options import DataOptions
from lissom.data.unpickle import read_pickle
from lissom.errors import DataError
from lissom.task import Classification
from lissom.train.evaluate import evaluate


def count(batches):
    return sum(len(targets) for _, targets in batches)


def inputs_of(batches):
    return torch.cat([x for x, _ in batches])


# --- digits


def test_digits_sizes_and_statistics():
    loaded = load_data("digits")
    data = loaded.data
    assert (count(data.train), count(data.held_out), count(data.test)) == (1257, 180, 360)
    assert loaded.example_inputs[0].shape == (1, 1, 8, 8)
    assert loaded.classes == tuple("0123456789")
    inputs = inputs_of(data.test)
    # 360 images scatter around the training set's mean 0 and deviation 1.
    assert float(inputs.mean()) == pytest.approx(0, abs=0.05)
    assert float(inputs.std()) == pytest.approx(1, abs=0.05)


def test_digits_sets_are_disjoint_and_the_same_for_every_seed():
    plain = {"augment": False}
    first = load_data("digits", options=DataOptions(seed=0, **plain)).data
    second = load_data("digits", options=DataOptions(seed=1, **plain)).data

    def rows(batches):
        return sorted(tuple(row) for row in inputs_of(batches).flatten(1).tolist())

    assert rows(first.train) == rows(second.train)
    assert rows(first.held_out) == rows(second.held_out)
    assert rows(first.test) == rows(second.test)
    assert not torch.equal(inputs_of(first.train), inputs_of(second.train))
    # Some digits occur twice in the source; more than a few common rows would be a leak.
    assert len(set(rows(first.train)) & set(rows(first.test))) < 3
    other = load_data("digits", options=DataOptions(split_seed=1, **plain)).data
    assert rows(other.held_out) != rows(first.held_out)


def test_calibration_is_fixed():
    data = load_data("digits", options=DataOptions(batch_size=64, calibration_images=300)).data
    first = inputs_of(data.calibration)
    assert len(first) == 256
    assert torch.equal(first, inputs_of(data.calibration))


def test_options_change_the_inputs():
    def test_inputs(**options):
        return inputs_of(load_data("digits", options=DataOptions(**options)).data.test)

    raw = test_inputs(mean=(0.0,), std=(1.0,), scale=1.0)
    assert float(raw.max()) == 255
    unit = test_inputs(mean=(0.0,), std=(1.0,))
    assert torch.allclose(unit * 255, raw)
    assert len(load_data("digits", options=DataOptions(batch_size=7)).data.train) == 180
    reflected = load_data("digits", options=DataOptions(padding_mode="reflect")).data
    padded = load_data("digits", options=DataOptions(crop_padding=3)).data
    default = load_data("digits").data
    first = [inputs_of(d.train) for d in (default, reflected, padded)]
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])
    assert count(load_data("digits", options=DataOptions(held_out=100)).data.held_out) == 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: expected at least 1"),
        ({"padding_mode": "mirror"}, "expected 'zero' or 'reflect'"),
        ({"mean": (0.5, 0.5, 0.5), "std": (1.0, 1.0, 1.0)}, "the images have 1 channels"),
        ({"std": (0.0,)}, "positive std per channel"),
        ({"held_out": 5000}, "can't set 5000 of 1437 images aside"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(DataError, match=message):
        load_data("digits", options=DataOptions(**options))


def test_unknown_name():
    with pytest.raises(DataError, match="did you mean cifar10"):
        load_data("cifar-10")


# --- cifar10


def write_cifar(folder, images=20):
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        data = random.integers(256, size=(images, 3072), dtype=np.uint8)
        batch = {b"data": data, b"labels": [i % 10 for i in range(images)]}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    names = {b"label_names": [f"class {i}".encode() for i in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(names, protocol=2))
    return folder


@pytest.fixture
def cifar(tmp_path):
    return write_cifar(tmp_path / "data" / "cifar-10-batches-py")


@pytest.mark.parametrize("parent", [False, True])
def test_cifar10(cifar, parent):
    loaded = load_data("cifar10", cifar.parent if parent else cifar)
    data = loaded.data
    assert (count(data.train), count(data.held_out), count(data.test)) == (90, 10, 20)
    assert loaded.classes[3] == "class 3"
    rows = pickle.loads((cifar / "test_batch").read_bytes())[b"data"]
    red = rows[0, :1024].reshape(32, 32)[5, 7]
    inputs, targets = next(iter(data.test))
    assert float(inputs[0, 0, 5, 7]) == pytest.approx((red / 255 - 0.485) / 0.229, abs=1e-5)
    assert targets[:3].tolist() == [0, 1, 2]


@pytest.mark.parametrize("folder", [None, "elsewhere"])
def test_cifar10_missing(tmp_path, folder):
    with pytest.raises(DataError, match="cifar-10-batches-py with data_batch_1"):
        load_data("cifar10", folder and tmp_path / folder)


def test_cifar10_missing_batch(cifar):
    (cifar / "data_batch_3").unlink()
    with pytest.raises(DataError, match="data_batch_3: no such file"):
        load_data("cifar10", cifar)


def test_cifar10_truncated(cifar):
    path = cifar / "data_batch_2"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DataError, match="data_batch_2: truncated or damaged"):
        load_data("cifar10", cifar)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({b"data": np.zeros((2, 3072), np.uint8)}, "no field 'labels'"),
        ({b"data": np.zeros((2, 9), np.uint8), b"labels": [0, 1]}, "rows of 3072 pixels"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 10]}, r"integers 0\.\.9"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]}, "2 images but 1 labels"),
        ([1, 2], "no field 'data'"),
    ],
)
def test_cifar10_misshapen(cifar, batch, message):
    (cifar / "data_batch_1").write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(DataError, match=f"data_batch_1.*{message}"):
        load_data("cifar10", cifar)


class Malicious:
    def __reduce__(self):
        return (exec, ("raise SystemExit('it ran')",))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_malicious_pickle_is_refused(cifar, protocol):
    (cifar / "data_batch_1").write_bytes(pickle.dumps({b"data": Malicious()}, protocol=protocol))
    with pytest.raises(DataError, match=r"refused: it asks for (builtins|__builtin__)\.exec"):
        load_data("cifar10", cifar)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_honest_pickles_are_read(tmp_path, protocol):
    content = {b"a": [1, "x", b"\xff"], "b": np.arange(6).reshape(2, 3), "c": np.float32(2)}
    (tmp_path / "p").write_bytes(pickle.dumps(content, protocol=protocol))
    result = read_pickle(tmp_path / "p")
    assert result[b"a"] == content[b"a"]
    assert np.array_equal(result["b"], content["b"])
    assert result["c"] == 2


# --- fashion_mnist


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


# --- image_folder


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    for part, images in (("train", 12), ("val", 3), ("test", 4)):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(images):
                pixels = random.integers(256, size=(20 + i, 24, 3), dtype=np.uint8)
                pixels[..., 0] = 200 * label
                Image.fromarray(pixels).save(tmp_path / part / name / f"{i}.png")
    return tmp_path


OPTIONS = DataOptions(batch_size=5, eval_batch_size=4, image_size=(16, 8), calibration_images=10)


def test_image_folder(folder):
    loaded = load_data("image_folder", folder, OPTIONS)
    data = loaded.data
    assert (count(data.train), count(data.held_out), count(data.test)) == (24, 6, 8)
    assert count(data.calibration) == 10
    assert loaded.classes == ("cat", "dog")
    inputs, targets = next(iter(data.test))
    assert inputs.shape == (4, 3, 16, 8)
    assert targets.tolist() == [0, 0, 0, 0]
    # Red is 0 for cats and 200 for dogs, through any crop and mirror.
    for x, y in data.train:
        red = (x[:, 0] * 0.229 + 0.485) * 255
        assert torch.allclose(red, 200.0 * y[:, None, None], atol=1e-3)


def test_image_folder_is_a_function_of_the_epoch(folder):
    first = load_data("image_folder", folder, OPTIONS).data.train
    second = load_data("image_folder", folder, OPTIONS).data.train
    second.set_epoch(1)
    assert not torch.equal(inputs_of(first), inputs_of(second))
    first.set_epoch(1)
    assert torch.equal(inputs_of(first), inputs_of(second))

    def by_image(epoch):
        first.set_epoch(epoch)
        return inputs_of(first)[torch.argsort(first.order())]

    first.fix_views(2)
    assert torch.equal(by_image(0), by_image(2))
    assert not torch.equal(by_image(0), by_image(1))


def test_image_folder_without_val(folder):
    for path in sorted((folder / "val").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (folder / "val").rmdir()
    data = load_data("image_folder", folder, OPTIONS).data
    assert (count(data.train), count(data.held_out)) == (22, 2)


@pytest.mark.parametrize("workers", [0, 1])
def test_image_folder_names_the_corrupt_image(folder, workers):
    options = DataOptions(batch_size=5, image_size=(16, 8), workers=workers)
    path = folder / "test" / "dog" / "2.png"
    path.write_bytes(path.read_bytes()[:200])
    data = load_data("image_folder", folder, options).data
    with pytest.raises(DataError, match=r"^\S*dog/2\.png: can't be decoded"):
        count(data.test)


def test_image_folder_layout_errors(folder):
    with pytest.raises(DataError, match="no folder train there; expected train/CLASS/IMAGE"):
        load_data("image_folder", folder / "nowhere")
    (folder / "test" / "bird").mkdir()
    with pytest.raises(DataError, match="bird: a class that train does not have"):
        load_data("image_folder", folder)
    (folder / "test" / "bird").rmdir()
    for path in (folder / "test").rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match="test: holds no images"):
        load_data("image_folder", folder)


def test_an_ordinary_data_loader_will_do():
    loader = DataLoader(TensorDataset(torch.eye(10), torch.arange(10)), batch_size=4)
    assert evaluate(torch.nn.Identity(), loader, Classification()) == 1.0
