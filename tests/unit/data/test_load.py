import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lissom.data.load import load_data
from lissom.data.options import DataOptions
from lissom.errors import DataError
from lissom.task import Classification
from lissom.train.evaluate import evaluate


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


def test_an_ordinary_data_loader_will_do():
    loader = DataLoader(TensorDataset(torch.eye(10), torch.arange(10)), batch_size=4)
    assert evaluate(torch.nn.Identity(), loader, Classification()) == 1.0
