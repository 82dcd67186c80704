import pytest
import torch

from lissom.data.augment import Augmentation, Draws, crop_and_flip, draw


def one_by_one(images, augmentation, draws):
    """The same, as one would write it for a single image."""
    mode = "reflect" if augmentation.reflect else "constant"
    p = augmentation.padding
    results = []
    for i, image in enumerate(images):
        padded = image.permute(2, 0, 1)[None].float()
        padded = torch.nn.functional.pad(padded, (p, p, p, p), mode=mode)[0].to(images.dtype)
        top, left = int(draws.top[i]), int(draws.left[i])
        crop = padded[:, top : top + image.shape[0], left : left + image.shape[1]]
        results.append((crop.flip(2) if draws.mirrored[i] else crop).permute(1, 2, 0))
    return torch.stack(results)


@pytest.mark.parametrize("reflect", [False, True])
@pytest.mark.parametrize("shape", [(40, 6, 8, 3), (40, 8, 6, 1)])
def test_equals_the_loop_over_images(shape, reflect):
    images = torch.randint(256, shape, dtype=torch.uint8)
    augmentation = Augmentation(padding=3, flip=True, reflect=reflect)
    draws = draw(len(images), augmentation, torch.Generator().manual_seed(0))
    expected = one_by_one(images, augmentation, draws)
    result = crop_and_flip(images, augmentation, draws)
    assert torch.equal(result, expected)
    assert result.is_contiguous()
    other = Draws(draws.top, draws.left, ~draws.mirrored)
    assert not torch.equal(crop_and_flip(images, augmentation, other), expected)


def test_draws_cover_the_range_evenly():
    draws = draw(9000, Augmentation(padding=1, flip=True), torch.Generator().manual_seed(0))
    # Three places and two sides; 9,000 draws of probability 1/3 have a standard deviation of 45.
    assert torch.bincount(draws.top).tolist() == pytest.approx([3000] * 3, abs=200)
    assert torch.bincount(draws.left).tolist() == pytest.approx([3000] * 3, abs=200)
    assert int(draws.mirrored.sum()) == pytest.approx(4500, abs=250)


def test_no_flip_unless_asked():
    draws = draw(100, Augmentation(padding=1), torch.Generator().manual_seed(0))
    assert not draws.mirrored.any()
