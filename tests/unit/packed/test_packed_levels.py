import zlib

import numpy as np
import pytest

from lissom.packed import context
from lissom.packed.bits import Reader, Writer
from lissom.packed.context import Side
from lissom.packed.level_chunk import level_chunk, read_level_chunk
from lissom.packed.levels import choose_side, price, read_levels, write_levels
from lissom.packed.varint import DamagedBytes
from packed_samples import kernels, order_zero_bits


@pytest.mark.parametrize("density", [0.1, 0.2, 0.3])
@pytest.mark.parametrize("shape", [(16, 16, 3, 3), (32, 32, 3, 3), (64, 48)])
def test_structure_takes_fewer_bytes_than_the_entropy_of_single_levels(
    shape: tuple[int, ...], density: float
) -> None:
    levels = kernels(shape, density)
    assert 8 * len(level_chunk([levels])) < 0.98 * order_zero_bits(levels)


def test_no_structure_costs_little_more_than_the_entropy() -> None:
    levels = np.random.default_rng(3).permutation(kernels((64, 64, 3, 3), 0.2).ravel())
    bits = 8 * len(level_chunk([levels.reshape(64, 64, 3, 3).astype(np.int32)]))
    assert bits < 1.01 * order_zero_bits(levels)


def test_the_price_is_what_the_stream_takes() -> None:
    levels = kernels((32, 16, 3, 3), 0.2)
    side, bits = choose_side(levels)
    writer = Writer()
    write_levels(writer, levels, side)
    assert price(levels, side) // 256 == bits
    assert 8 * len(writer.content()) == pytest.approx(bits, abs=48)


def test_the_bytes_are_those_of_the_format() -> None:
    # Made by integer arithmetic alone; a change here makes old files unreadable.
    count = np.arange(4 * 5 * 3 * 3)
    levels = np.where(count * count % 7 < 5, 0, count % 5 - 2).reshape(4, 5, 3, 3).astype(np.int32)
    writer = Writer()
    write_levels(writer, levels, Side(density=118, largest=1))
    assert zlib.crc32(writer.content()) == 0x00000000
    assert np.array_equal(read_levels(Reader(writer.content()), levels.shape, Side(118, 1)), levels)


def test_a_reader_with_other_weights_gets_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = kernels((16, 8, 3, 3), 0.3)
    content = level_chunk([levels])
    weak = (context.WEIGHTS[0],) * 3
    monkeypatch.setattr(context, "WEIGHTS", weak)
    try:
        (found,) = read_level_chunk(content, [levels.shape])
    except ValueError:
        return
    assert not np.array_equal(found, levels)


def test_simple_tensors_take_a_few_bytes() -> None:
    zeros = np.zeros((64, 64, 3, 3), np.int32)
    assert len(level_chunk([zeros])) <= 3
    assert len(level_chunk([zeros - 5])) <= 3
    assert len(level_chunk([np.arange(-4, 4, dtype=np.int32)])) <= 6


def test_uniform_levels_take_their_width() -> None:
    levels = np.random.default_rng(0).integers(-128, 128, (40, 50)).astype(np.int32)
    assert len(level_chunk([levels])) <= 2000 + 5


def test_levels_far_from_zero_and_from_each_other_come_back() -> None:
    levels = np.array([617713693, 1834449299], np.int32)
    assert np.array_equal(read_level_chunk(level_chunk([levels]), [(2,)])[0], levels)
    far = b"\2\x1f" + b"\xfe\xff\xff\xff\x0f" + b"\xff" * 4  # 2^31 - 1 and much more
    with pytest.raises(DamagedBytes, match="at most 31 bits"):
        read_level_chunk(far, [(1,)])


def test_impossible_heads_are_refused() -> None:
    with pytest.raises(DamagedBytes, match="expected a coding of 0, 1 or 2, got 3"):
        read_level_chunk(b"\3", [(4,)])
    with pytest.raises(DamagedBytes, match=r"below 2\^31, got 33 bits"):
        read_level_chunk(b"\0\0\x20", [(4,)])
    with pytest.raises(DamagedBytes, match="width of 1 to 31 bits, got 40"):
        read_level_chunk(b"\2\x28\0", [(4,)])
    with pytest.raises(DamagedBytes, match="at most 31 bits"):
        read_level_chunk(b"\1" + b"\xff" * 8 + b"\1", [(4,)])
    with pytest.raises(DamagedBytes, match="expected 500 more bytes, found 0"):
        read_level_chunk(b"\2\1\0", [(4000,)])
