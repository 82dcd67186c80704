import pytest
import torch

from lissom.packed.recognise import packable
from lissom.packed.tensors import Levels, Stored
from packed_samples import kernels, same


@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("smallest", [1, 5])
def test_levels_times_a_scale_are_found(channels: bool, smallest: int) -> None:
    levels = torch.from_numpy(kernels((8, 6, 3, 3), 0.4))
    levels += levels.sign() * (smallest - 1)
    scale = torch.rand(8) + 0.1 if channels else torch.tensor(0.0371)
    values = Levels(levels, scale).tensor()
    found = packable(values)
    assert isinstance(found, Levels)
    assert found.scale.ndim == int(channels)
    assert same(found.tensor(), values)


def test_what_is_not_quantized_stays_as_it_is() -> None:
    quantized = Levels(torch.from_numpy(kernels((8, 6, 3, 3), 0.4)), torch.tensor(0.1)).tensor()
    for values in (
        torch.randn(8, 6, 3, 3),
        quantized.half(),
        -quantized,  # zeros with a sign are other bits
        torch.where(quantized > 0, torch.nan, quantized),
        quantized[0, 0, 0],
        quantized[:0],
    ):
        found = packable(values)
        assert isinstance(found, Stored)
        assert same(found.tensor(), values)


def test_zeros_are_levels() -> None:
    found = packable(torch.zeros(4, 4))
    assert isinstance(found, Levels)
    assert same(found.tensor(), torch.zeros(4, 4))
