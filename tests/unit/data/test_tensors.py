import pytest
import torch

from lissom.data.augment import Augmentation
from lissom.data.options import Normalization
from lissom.data.tensors import (
    AugmentedLoader,
    FixedBatches,
    Images,
    TensorLoader,
    split_by_class,
)
from lissom.errors import DataError

PLAIN = Normalization((0.0,), (1.0,), scale=1.0)


def numbered(count):
    """Images whose top left pixel is their number."""
    pixels = torch.zeros(count, 4, 4, 1, dtype=torch.uint8)
    pixels[:, 0, 0, 0] = torch.arange(count)
    return Images(pixels, torch.arange(count) % 3)


def epoch(loader, number):
    loader.set_epoch(number)
    batches = list(loader)
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def test_normalizes():
    loader = TensorLoader(
        Images(torch.full((1, 2, 2, 3), 51, dtype=torch.uint8), torch.zeros(1)),
        batch_size=1,
        normalization=Normalization((0.1, 0.2, 0.3), (0.1, 0.2, 0.4)),
    )
    inputs, _ = next(iter(loader))
    # 51 / 255 = 0.2
    assert inputs[0, :, 0, 0].tolist() == pytest.approx([1.0, 0.0, -0.25], abs=1e-6)
    assert inputs.shape == (1, 3, 2, 2)
    assert inputs.is_contiguous(memory_format=torch.channels_last)


def test_plain_loader_keeps_the_order():
    loader = TensorLoader(numbered(7), 3, PLAIN)
    batches = list(loader)
    assert [len(y) for _, y in batches] == [3, 3, 1]
    assert len(loader) == 3
    assert torch.cat([x for x, _ in batches])[:, 0, 0, 0].tolist() == list(range(7))


def test_shuffles_by_seed_and_epoch():
    loader = AugmentedLoader(numbered(50), 8, PLAIN, seed=3)
    first, second = epoch(loader, 0), epoch(loader, 1)
    assert sorted(first[0][:, 0, 0, 0].tolist()) == list(range(50))
    assert not torch.equal(first[0], second[0])
    again = AugmentedLoader(numbered(50), 8, PLAIN, seed=3)
    assert torch.equal(epoch(again, 1)[0], second[0])
    assert torch.equal(first[1], first[0][:, 0, 0, 0].long() % 3)
    other = AugmentedLoader(numbered(50), 8, PLAIN, seed=4)
    assert not torch.equal(epoch(other, 1)[0], second[0])


def test_order_is_what_is_yielded():
    loader = AugmentedLoader(numbered(50), 8, PLAIN)
    inputs, _ = epoch(loader, 5)
    assert inputs[:, 0, 0, 0].tolist() == loader.order().tolist()


def by_image(loader, number):
    inputs, _ = epoch(loader, number)
    return inputs[torch.argsort(loader.order())]


def test_fixed_views_come_in_turn_and_in_new_orders():
    images = Images(torch.randint(256, (40, 4, 4, 1), dtype=torch.uint8), torch.zeros(40))
    loader = AugmentedLoader(images, 8, PLAIN, augmentation=Augmentation(padding=2, flip=True))
    loader.fix_views(2)
    assert torch.equal(by_image(loader, 0), by_image(loader, 2))
    assert torch.equal(by_image(loader, 1), by_image(loader, 3))
    assert not torch.equal(by_image(loader, 0), by_image(loader, 1))
    assert not torch.equal(epoch(loader, 0)[0], epoch(loader, 2)[0])
    loader.fix_views(0)
    assert not torch.equal(by_image(loader, 0), by_image(loader, 2))


def test_fixed_batches_stay_the_same():
    source = AugmentedLoader(numbered(50), 8, PLAIN)
    fixed = FixedBatches(source, images=20)
    first = list(fixed)
    source.set_epoch(1)
    second = list(fixed)
    assert [len(y) for _, y in first] == [8, 8]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, second, strict=True))


def test_fixed_batches_drop_a_smaller_one_and_have_at_least_one():
    assert [len(y) for _, y in FixedBatches(TensorLoader(numbered(20), 8, PLAIN), 999)] == [8, 8]
    assert [len(y) for _, y in FixedBatches(TensorLoader(numbered(5), 8, PLAIN), 2)] == [5]


def test_split_is_stratified_disjoint_and_fixed():
    targets = torch.arange(100) % 4
    rest, chosen = split_by_class(targets, 21, seed=0)
    assert sorted([*rest.tolist(), *chosen.tolist()]) == list(range(100))
    assert set(torch.bincount(targets[chosen]).tolist()) <= {5, 6}
    assert torch.equal(split_by_class(targets, 21, seed=0)[1], chosen)
    assert not torch.equal(split_by_class(targets, 21, seed=1)[1], chosen)


@pytest.mark.parametrize("count", [0, 10, 11])
def test_split_refuses_to_leave_nothing(count):
    with pytest.raises(DataError, match=r"expected 1 \.\. 9"):
        split_by_class(torch.zeros(10), count, seed=0)


def test_refuses_empty_sets_and_unequal_lengths():
    with pytest.raises(DataError, match="no images"):
        TensorLoader(numbered(0), 4, PLAIN)
    with pytest.raises(DataError, match="2 images but 3 labels"):
        Images(torch.zeros(2, 1, 1, 1, dtype=torch.uint8), torch.zeros(3))
    with pytest.raises(ValueError, match="uint8"):
        Images(torch.zeros(2, 1, 1, 1), torch.zeros(2))


def test_the_parts_of_several_processes_are_the_batches_of_one():
    augmentation = Augmentation(padding=1, flip=True)
    images = Images(torch.randint(256, (43, 4, 4, 1), dtype=torch.uint8), torch.arange(43))
    loader = AugmentedLoader(images, 8, PLAIN, augmentation=augmentation)
    loader.set_epoch(3)
    divided = zip(*(loader.parts(rank, 2) for rank in range(2)), strict=True)
    for whole, two in zip(loader, divided, strict=True):
        if len(whole[1]) == 3:  # too few to be divided
            assert all(torch.equal(part[1], whole[1]) for part in two)
            continue
        assert [len(part[1]) for part in two] == [4, 4]
        for place in range(2):
            assert torch.equal(torch.cat([part[place] for part in two]), whole[place])
