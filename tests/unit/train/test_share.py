from itertools import chain

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from lissom.errors import DataError
from lissom.train.share import parts, share


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("images", [0, 1, 13, 14, 15, 128])
def test_the_shares_are_the_whole_and_alike(images, world):
    shares = [list(range(images))[share(images, rank, world)] for rank in range(world)]
    if images < 2 * world:
        assert shares == [list(range(images))] * world
        return
    assert list(chain(*shares)) == list(range(images))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert min(map(len, shares)) >= 2


def test_ordinary_batches_are_divided_however_nested():
    batch = {"x": torch.arange(6), "y": (torch.arange(12).view(6, 2), ["kept", 3])}
    first, second = (next(parts([batch], rank, 2)) for rank in range(2))
    assert torch.equal(torch.cat([first["x"], second["x"]]), batch["x"])
    assert second["y"][0].tolist() == [[6, 7], [8, 9], [10, 11]]
    assert first["y"][1] == ["kept", 3]
    assert next(parts([batch], 0, 1)) is batch


def test_a_tensor_that_does_not_belong_to_images_is_refused():
    for batch in ((torch.ones(6), torch.ones(3)), (torch.ones(6), torch.tensor(1.0)), (3, "x")):
        with pytest.raises(DataError, match=r"entries; to divide it among 2 processes, every"):
            next(parts([batch], 0, 2))


def test_a_loader_that_divides_is_left_to_it():
    class Dividing:
        def parts(self, rank, world):
            yield rank, world

    assert list(parts(Dividing(), 1, 3)) == [(1, 3)]
    images = TensorDataset(torch.arange(8))
    sampler = DistributedSampler(images, num_replicas=2, rank=1, shuffle=False)
    loader = DataLoader(images, batch_size=2, sampler=sampler)
    assert torch.cat([x for (x,) in parts(loader, 1, 2)]).tolist() == [1, 3, 5, 7]
