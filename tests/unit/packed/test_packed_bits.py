import numpy as np
import pytest

from lissom.packed.bits import DamagedStream, Meter, Reader, Writer, raw
from lissom.packed.fixed_point import ONE
from lissom.packed.single_bits import SingleReader

DRAW = np.random.default_rng(0)
ONES = DRAW.integers(1, ONE, 5000)
PLACES = np.arange(5000)
BITS = DRAW.random(5000) * ONE < ONES


def written() -> bytes:
    writer = Writer()
    writer.code(ONES, np.arange(2000), BITS[:2000])
    raw(writer, 100, BITS[:100])
    writer.code(ONES, np.arange(2000, 5000), BITS[2000:])
    return writer.content()


def test_bits_come_back_however_they_are_divided() -> None:
    reader = Reader(written())
    found = [reader.code(ONES, np.arange(a, b), None) for a, b in ((0, 7), (7, 7), (7, 2000))]
    found += [raw(reader, count, None) for count in (0, 30, 70)]
    found.append(reader.code(ONES[2000:], np.arange(3000), None))
    assert np.array_equal(np.concatenate(found), np.insert(BITS, 2000, BITS[:100]))


def test_the_decoder_of_the_format_page_reads_them_one_by_one() -> None:
    decoder = SingleReader(written())
    ones = np.insert(ONES, 2000, np.full(100, ONE // 2))
    expected = np.insert(BITS, 2000, BITS[:100])
    assert [decoder.bit(int(one)) for one in ones] == expected.tolist()


def test_the_meter_knows_what_the_writer_will_need() -> None:
    meter = Meter()
    meter.code(ONES, PLACES, BITS)
    raw(meter, 100, BITS[:100])
    assert len(written()) == pytest.approx(meter.price / 256 / 8, abs=6)


def test_raw_bits_cost_a_bit() -> None:
    meter = Meter()
    raw(meter, 100, np.ones(100, np.bool_))
    assert meter.price == 100 * 256


def test_impossible_data_is_an_error_of_its_own() -> None:
    reader = Reader(b"\xff" * 8)
    with pytest.raises(DamagedStream):
        reader.code(np.array([ONE - 1]), np.zeros(100000, np.int64), None)


def test_roles_are_not_mixed_up() -> None:
    with pytest.raises(ValueError, match="writer needs"):
        Writer().code(ONES, PLACES, None)
    with pytest.raises(ValueError, match="meter needs"):
        Meter().code(ONES, PLACES, None)
    with pytest.raises(ValueError, match="finds the bits itself"):
        Reader(b"").code(ONES, PLACES, BITS)
