import numpy as np
import pytest
import torch
from PIL import Image

from lissom.data.load import load_data
from lissom.data.options import DataOptions
from lissom.errors import DataError


def count(batches):
    return sum(len(targets) for _, targets in batches)


def inputs_of(batches):
    return torch.cat([x for x, _ in batches])


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
