"""Whatever goes into a packed file comes out of it, bit for bit."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lissom.packed.level_chunk import level_chunk, read_level_chunk
from lissom.packed.reader import PackedReader
from lissom.packed.stored_chunk import read_stored_chunk, stored_chunk
from lissom.packed.tensors import DTYPES, Levels, Packable, Stored
from lissom.packed.writer import pack
from packed_samples import same

SHAPES = arrays.array_shapes(min_dims=1, max_dims=5, min_side=0, max_side=4)


@st.composite
def levels(draw: st.DrawFn) -> np.ndarray:
    """Levels of any shape: all zero, one value, sparse, dense, huge."""
    shape = draw(SHAPES)
    largest = draw(st.sampled_from([0, 1, 2, 7, 127, 2**15, 2**31 - 1]))
    density = draw(st.sampled_from([0.0, 0.05, 0.5, 1.0]))
    source = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = source.integers(-largest, largest, shape, endpoint=True)
    return np.where(source.random(shape) < density, values, 0).astype(np.int32)


@given(st.lists(levels(), min_size=1, max_size=3))
@settings(deadline=None, max_examples=30)
def test_levels_come_back(tensors: list[np.ndarray]) -> None:
    found = read_level_chunk(level_chunk(tensors), [tensor.shape for tensor in tensors])
    for given_, read in zip(tensors, found, strict=True):
        assert read.dtype == np.int32
        assert read.shape == given_.shape
        assert np.array_equal(read, given_)


@given(
    arrays.arrays(np.int32, SHAPES, elements=st.integers(-3, 3)),
)
@settings(deadline=None, max_examples=20)
def test_any_small_array_comes_back(tensor: np.ndarray) -> None:
    (found,) = read_level_chunk(level_chunk([tensor]), [tensor.shape])
    assert np.array_equal(found, tensor)


@given(
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 30), min_size=1, max_size=3),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_vectors_of_any_type_come_back(
    dtype: torch.dtype, counts: list[int], seed: int, noise: bool
) -> None:
    source = torch.Generator().manual_seed(seed)
    if noise and dtype != torch.bool:  # any bits: NaN, infinity, subnormal, -0
        bits = sum(counts) * dtype.itemsize
        values = torch.randint(0, 256, (bits,), dtype=torch.uint8, generator=source).view(dtype)
    else:
        values = torch.randint(0, 2, (sum(counts),), generator=source).to(dtype)
    content = stored_chunk(torch.split(values, counts))
    assert same(read_stored_chunk(content, counts, dtype), values)


@st.composite
def networks(draw: st.DrawFn) -> dict[str, Packable]:
    tensors: dict[str, Packable] = {}
    for name in draw(st.lists(st.text(max_size=8), max_size=6, unique=True)):
        values = torch.from_numpy(draw(levels()))
        if draw(st.booleans()):
            tensors[name] = Stored(values.to(draw(st.sampled_from(DTYPES))))
        else:
            channels = draw(st.booleans())
            scale = torch.rand(values.shape[0] if channels else ()) + 0.01
            scale = scale.half().float() if draw(st.booleans()) else scale
            floats = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
            tensors[name] = Levels(values, scale, draw(st.sampled_from(floats)))
    return tensors


@given(networks(), st.text(max_size=40))
@settings(deadline=None, max_examples=25)
def test_files_come_back_the_same_and_are_made_the_same(
    network: dict[str, Packable], plan: str
) -> None:
    content = pack(network, plan).content
    assert pack(network, plan).content == content
    reader = PackedReader.from_bytes(content)
    assert reader.plan == plan
    found = reader.tensors()
    assert list(found) == list(network)
    for name, packable in network.items():
        assert same(found[name], packable.tensor()), name


def test_these_oracles_can_fail() -> None:
    assert not same(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not same(torch.zeros(2), torch.zeros(2, dtype=torch.float16))
    assert not same(torch.zeros(2), torch.zeros(1, 2))
