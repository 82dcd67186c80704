import pytest
import torch

from lissom.packed.recognise import packable
from lissom.packed.tensors import Levels, Stored
from lissom.packed.writer import pack
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
        torch.where(quantized > 0, torch.nan, quantized),
        quantized[0, 0, 0],
        quantized[:0],
    ):
        found = packable(values)
        assert isinstance(found, Stored)
        assert same(found.tensor(), values)


@pytest.mark.parametrize("of_channels", [False, True])
def test_a_sign_of_zeros_hides_no_levels(of_channels: bool) -> None:
    levels = torch.from_numpy(kernels((8, 6, 3, 3), 0.4))
    scale = torch.rand(8) + 0.1 if of_channels else torch.tensor(0.1)
    values = -Levels(levels, scale).tensor()  # what rounding and masks leave
    assert torch.signbit(values[values == 0]).all()
    found = packable(values)
    assert isinstance(found, Levels)
    assert torch.equal(found.tensor(), values)
    assert not torch.signbit(found.tensor()[values == 0]).any()


def test_other_zeros_keep_their_sign() -> None:
    values = torch.randn(8, 6, 3, 3)
    values[values < 1] *= 0
    assert torch.signbit(values[values == 0]).any()
    found = packable(values)
    assert isinstance(found, Stored)
    assert same(found.tensor(), values)


def test_zeros_are_levels() -> None:
    found = packable(torch.zeros(4, 4))
    assert isinstance(found, Levels)
    assert same(found.tensor(), torch.zeros(4, 4))


def test_channel_scales_of_few_digits_are_not_taken_for_one_scale() -> None:
    levels = torch.from_numpy(kernels((8, 6, 3, 3), 0.4))
    scale = torch.tensor([9, 11, 13, 15, 10, 12, 14, 8]) / 64
    found = packable(Levels(levels, scale).tensor())
    assert isinstance(found, Levels)
    assert torch.equal(found.scale, scale)
    assert torch.equal(found.levels, levels)


def test_channels_of_zeros_have_the_scale_beside_them() -> None:
    levels = torch.from_numpy(kernels((5, 6, 3, 3), 0.4))
    levels[0] = levels[1] = levels[3] = 0
    scale = torch.rand(5) + 0.1
    found = packable(Levels(levels, scale).tensor())
    assert isinstance(found, Levels)
    assert torch.equal(found.scale, scale[[2, 2, 2, 2, 4]])


def test_many_levels_in_few_values_are_levels_too():
    """A small layer of many bits, or a depthwise one: hardly two values of a channel are alike."""
    levels = torch.tensor(
        [[1, -3, 7, 12, -19, 30, 44, -57, 63], [2, 5, -8, 11, 17, 23, -31, 40, 59]]
    )
    scale = torch.tensor([0.03125 * 1.25, 0.0625 * 1.5])
    found = packable((levels * scale[:, None]).reshape(2, 1, 3, 3))
    assert isinstance(found, Levels)
    assert torch.equal(found.levels.reshape(2, 9), levels.int())
    noise = torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    assert isinstance(packable(noise), Stored)
    assert isinstance(packable(noise.half().float()), Stored)


@pytest.mark.parametrize("width", [1, 2, 3, 8])
@pytest.mark.parametrize("largest", [1, 7, 127])
def test_scales_of_few_values_are_found(width: int, largest: int) -> None:
    """Factors of small rank, kernels of 1 x 3, 1 x 1 over few channels."""
    draw = torch.Generator().manual_seed(width)
    levels = torch.randint(-largest, largest + 1, (40, width, 1, 1), generator=draw).int()
    scale = torch.exp(0.3 * torch.randn(40, generator=draw))
    values = Levels(levels, scale).tensor() + 0.0
    found = packable(values)
    assert same(found.tensor(), values)
    assert isinstance(found, Levels) or width == 1  # a scale for each value saves nothing
    plain = pack({"w": Stored(values)}).stored_bytes
    assert _bytes(values) < (plain if width > 1 else plain + 20)


def test_channels_without_small_levels_are_found() -> None:
    """Nine values of 8 bits, hardly ever with a small one among them."""
    draw = torch.Generator().manual_seed(0)
    sizes = torch.randint(17, 128, (64, 1, 3, 3), generator=draw)
    levels = (sizes * torch.randint(0, 2, sizes.shape, generator=draw).mul(2).sub(1)).int()
    found = packable(Levels(levels, torch.rand(64, generator=draw) + 0.1).tensor())
    assert isinstance(found, Levels)
    assert int(found.levels.abs().max()) < 256


def test_scales_share_their_few_digits() -> None:
    """A channel whose only level is 3 has a scale of three times as much, and two digits more."""
    levels = torch.from_numpy(kernels((60, 1, 3, 3), 0.5))
    levels[::4] = 0
    levels[::4, 0, 1, 1] = 3
    scale = (torch.arange(60) % 16 + 16.0) / 64
    found = packable(Levels(levels, scale).tensor())
    assert isinstance(found, Levels)
    assert all(float(64 * one).is_integer() for one in found.scale)
    assert torch.equal(found.tensor(), Levels(levels, scale).tensor())


def _bytes(values: torch.Tensor) -> int:
    packed = pack({"w": packable(values)})
    return packed.stored_bytes + packed.level_bytes
