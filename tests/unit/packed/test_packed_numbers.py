import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissom.packed.long_numbers import read_long, write_long
from lissom.packed.numbers import (
    MOST,
    Numbers,
    as_numbers,
    floats,
    from_numbers,
    read_numbers,
    write_numbers,
)
from lissom.packed.stored_chunk import read_stored_chunk, stored_chunk
from lissom.packed.varint import DamagedBytes
from packed_samples import same
from packed_second_decoder import long_numbers as second_decoder_of_long
from packed_second_decoder import numbers as second_decoder

GRID, DIGITS = 0, 1


def scales(count: int, bits: int, seed: int = 0) -> torch.Tensor:
    """Floats around a common size with a mantissa of few bits."""
    draw = torch.Generator().manual_seed(seed)
    values = torch.exp(torch.randn(count, generator=draw) / 3)
    mask = -1 << (23 - bits)
    return (values.view(torch.int32) & mask).view(torch.float32)


def biases(count: int, step: float, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.round(30 * torch.randn(count, generator=draw)) * step + 0.0


def test_digits_and_grids_are_told_apart() -> None:
    found = as_numbers(scales(40, 4))
    assert found is not None
    assert (found.kind, found.place) == (DIGITS, 4)
    found = as_numbers(biases(40, 2.0**-7))
    assert found is not None
    assert (found.kind, found.place) == (GRID, -7)
    assert as_numbers(torch.zeros(3)) == Numbers(GRID, 0, (0, 0, 0))
    assert as_numbers(torch.zeros(0)) is not None


@pytest.mark.parametrize("odd", [torch.nan, torch.inf, -0.0, 1e-30])
def test_vectors_that_are_no_numbers_are_left_alone(odd: float) -> None:
    assert as_numbers(torch.tensor([-1.0, odd])) is None


VECTORS = st.lists(
    st.lists(
        st.floats(width=16, allow_nan=False, allow_infinity=False).map(lambda x: x + 0.0),
        max_size=8,
    )
    | st.builds(lambda n, bits, seed: scales(n, bits, seed).tolist(), *[st.integers(0, 9)] * 3)
    | st.lists(st.integers(-(2**28), 2**28).map(float), max_size=4),
    max_size=5,
)


@given(VECTORS)
def test_numbers_come_back_and_a_second_decoder_reads_the_same(vectors: list[list[float]]) -> None:
    tensors = [torch.tensor(vector, dtype=torch.float32) for vector in vectors]
    told = [form for tensor in tensors if (form := as_numbers(tensor)) is not None]
    content = write_numbers(told)
    counts = [len(form.values) for form in told]
    assert read_numbers(content, counts) == told
    assert second_decoder(content, counts) == [(x.kind, x.place, [*x.values]) for x in told]
    kept = [tensor for tensor in tensors if as_numbers(tensor) is not None]
    assert all(same(from_numbers(form), tensor) for form, tensor in zip(told, kept, strict=True))


LONG = st.lists(
    st.builds(
        lambda n, step, seed: biases(n, 2.0**step, seed),
        st.integers(0, 200),
        st.integers(-9, 3),
        st.integers(0, 9),
    )
    | st.builds(scales, st.integers(0, 200), st.integers(0, 9), st.integers(0, 9))
    | st.builds(lambda n, x: torch.full((n,), float(x)), st.integers(0, 70), st.integers(-5, 5)),
    max_size=3,
)


@settings(deadline=None, max_examples=25)
@given(LONG)
def test_a_second_decoder_reads_long_vectors_as_well(vectors: list[torch.Tensor]) -> None:
    content = write_long(vectors)
    assert content is not None
    counts = [len(vector) for vector in vectors]
    found = second_decoder_of_long(content, counts)
    for (kind, place, values), vector in zip(found, vectors, strict=True):
        assert same(floats(kind, place, np.array(values, np.int64)), vector)


def test_the_second_decoder_of_long_vectors_can_disagree() -> None:
    vector = biases(150, 0.5)
    content = bytearray(write_long([vector]) or b"")
    content[-20] ^= 8
    ((kind, place, values),) = second_decoder_of_long(bytes(content), [150])
    assert not same(floats(kind, place, np.array(values, np.int64)), vector)


def test_the_second_decoder_can_disagree() -> None:
    told = [form for form in (as_numbers(biases(30, 0.5)),) if form is not None]
    content = bytearray(write_numbers(told))
    content[2] ^= 255
    assert second_decoder(bytes(content), [30]) != [(told[0].kind, told[0].place, told[0].values)]


def test_vectors_of_a_folded_network_are_small() -> None:
    vectors = []
    for layer in range(19):
        vectors += [biases(36, 2.0 ** -(5 + layer % 3), layer), scales(36, 5, layer)]
    size = len(stored_chunk([vector.half() for vector in vectors]))
    # Entropy of the two distributions, 7.0 and 6.0 bits a value, and little more.
    assert size < 19 * 36 * (7.0 + 6.0) / 8 * 1.08
    planes = len(stored_chunk([torch.cat(vectors).half() - 0.0, torch.tensor([-0.0]).half()]))
    assert size < 0.7 * planes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_chunk_takes_the_shorter_form(dtype: torch.dtype) -> None:
    vectors = [biases(20, 1.0).to(dtype), scales(20, 3).to(dtype)]
    content = stored_chunk(vectors)
    assert content[0] == 3
    assert same(read_stored_chunk(content, [20, 20], dtype), torch.cat(vectors))
    assert stored_chunk([torch.ones(500).to(dtype)])[0] == 1
    assert stored_chunk([torch.randn(MOST + 1).to(dtype)])[0] != 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_long_vectors_are_whole_numbers_too(dtype: torch.dtype) -> None:
    vectors = [biases(MOST, 2.0**-3).to(dtype), scales(MOST // 2, 5).to(dtype)]
    if dtype == torch.bfloat16:
        vectors[0] = biases(MOST, 1.0).clamp(-128, 128).to(dtype)
    content = stored_chunk(vectors)
    assert content[0] == 4
    assert same(read_stored_chunk(content, [MOST, MOST // 2], dtype), torch.cat(vectors))
    # Entropies of 6.95 and 6.0 bits a number, as in the test above.
    assert len(content) < (MOST * 6.95 + MOST // 2 * 6.0) / 8 * 1.05


def test_the_bytes_of_long_vectors_are_those_of_the_format() -> None:
    vectors = [torch.arange(-5.0, 4.0).repeat(2000) / 4, torch.tensor([]), scales(2, 3)]
    content = write_long(vectors)
    assert content is not None
    # Grid of 2^-2 around -1, an empty one, three digits around the larger of two.
    digits = as_numbers(vectors[2])
    assert digits is not None
    centre = 2 * max(digits.values)
    assert content[:6] == bytes([0, 3, 1, 0, 0, 0])
    assert content[6:10] == bytes([1, 6, centre & 127 | 128, centre >> 7])
    found = read_long(content, [18_000, 0, 2])
    assert all(same(one, other) for one, other in zip(found, vectors, strict=True))


def test_long_vectors_that_are_no_numbers_stay_bytes() -> None:
    noise = torch.randn(MOST + 1, generator=torch.Generator().manual_seed(0))
    assert write_long([noise]) is None
    assert write_long([torch.tensor([-(2.0**28), 2.0**28])]) is not None
    assert stored_chunk([noise])[0] < 3


def test_reading_damaged_long_vectors_gives_a_reason() -> None:
    content = write_long([biases(30, 1.0)])
    assert content is not None
    with pytest.raises(DamagedBytes, match="expected a kind of 0 or 1, got 7"):
        read_long(b"\7" + content[1:], [30])
    with pytest.raises(DamagedBytes, match="expected a place from -255 to 255"):
        read_long(b"\0\xff\x7f" + content[2:], [30])
    with pytest.raises(DamagedBytes, match="numbers of at most 31 bits"):
        read_long(content[:2] + b"\xff\xff\xff\xff\xff\x7f" + content[3:], [30])


def test_reading_anything_ends_in_values_or_in_an_error_with_a_reason() -> None:
    draw = np.random.default_rng(0)
    messages = []
    for _ in range(200):
        try:
            found = read_stored_chunk(b"\3" + draw.bytes(40), [9, 0, 7], torch.float16)
        except DamagedBytes as error:
            messages.append(str(error))
        else:
            assert found.shape == (16,)
    assert messages
    assert all("expected" in message for message in messages)
    with pytest.raises(DamagedBytes, match="expected at most 16,384 numbers"):
        read_numbers(b"", [MOST, 1])
    with pytest.raises(DamagedBytes, match="expected positive floats"):
        from_numbers(Numbers(DIGITS, 3, (-1,)))
