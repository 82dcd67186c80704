import pickle

import numpy as np
import pytest

from lissom.data.load import load_data
from lissom.data.unpickle import read_pickle
from lissom.errors import DataError


def count(batches):
    return sum(len(targets) for _, targets in batches)


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
