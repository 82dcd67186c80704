"""A damaged packed file gives a PackedFileError, or what was in it, and nothing else."""

import contextlib
import functools
import io
import struct
import time
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lissom.errors import PackedFileError
from lissom.packed import frame, reader
from lissom.packed.header import STORED, Chunk, Entry, Header
from lissom.packed.reader import PackedReader
from lissom.packed.writer import pack
from packed_samples import same, small_network

NETWORK = small_network()
PLAN = '{"format":1,"source":{"spec":"lissom:resnet20","arguments":{}},"decisions":[]}'
CONTENT = pack(NETWORK, PLAN).content


@pytest.fixture(autouse=True)
def _headers_are_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pure function, and nearly all of the time of a small file."""
    monkeypatch.setattr(frame, "read_text", functools.cache(frame.read_text))


def refused(content: bytes) -> bool:
    """Whether a reader refuses a file; a file that it accepts must hold what was packed."""
    try:
        found = PackedReader.from_bytes(content)
        tensors = found.tensors()
    except PackedFileError:
        return True
    assert found.plan == PLAN
    assert list(tensors) == list(NETWORK)
    assert all(same(tensors[name], packed.tensor()) for name, packed in NETWORK.items())
    return False


def mutated(draw: np.random.Generator) -> bytes:
    """Flip bits, overwrite, insert, remove or cut at a random place."""
    content = bytearray(CONTENT)
    at = int(draw.integers(len(content)))
    kind = int(draw.integers(5))
    if kind == 0:
        content[at] ^= 1 << int(draw.integers(8))
    elif kind == 1:
        content[at] = (content[at] + int(draw.integers(1, 256))) % 256
    elif kind == 2:
        content[at:at] = draw.bytes(int(draw.integers(1, 9)))
    elif kind == 3:
        del content[at : at + int(draw.integers(1, 9))]
    else:
        content[at : at + 4] = draw.bytes(4)
    return bytes(content)


def with_new_checksums(content: bytes) -> bytes | None:
    """Repair the header's checksum, as somebody would who means harm; None without a header."""
    if len(content) < frame.SIZE:
        return None
    (coded,) = struct.unpack_from("<I", content, 6)
    head, body = content[:14], content[18 : 18 + coded]
    return head + struct.pack("<I", zlib.crc32(body, zlib.crc32(head))) + content[18:]


def with_damaged_header(draw: np.random.Generator) -> bytes:
    """Damage the header behind its coding, and give it as somebody would who means harm."""
    magic, version, _, coded, length = frame._HEAD.unpack(CONTENT[:14])
    plain = bytearray(frame.read_text(CONTENT[18 : 18 + coded], length))
    for _ in range(int(draw.integers(1, 4))):
        at = len(PLAN) + int(draw.integers(len(plain) - len(PLAN)))
        plain[at] = int(draw.choice([0, 1, 127, 128, 255, int(draw.integers(256))]))
    head = frame._HEAD.pack(magic, version, 0, len(plain), len(plain))
    return (
        head
        + struct.pack("<I", zlib.crc32(plain, zlib.crc32(head)))
        + plain
        + CONTENT[18 + coded :]
    )


def test_the_whole_file_is_accepted() -> None:
    assert not refused(CONTENT)


def test_every_cut_is_refused() -> None:
    assert all(refused(CONTENT[:length]) for length in range(len(CONTENT)))


def test_more_bytes_at_the_end_are_refused() -> None:
    assert refused(CONTENT + b"\0")


def test_every_flipped_byte_of_the_header_is_refused() -> None:
    for at in range(pack(NETWORK, PLAN).header_bytes):
        assert refused(CONTENT[:at] + bytes([CONTENT[at] ^ 0x55]) + CONTENT[at + 1 :]), at


def test_damage_of_one_chunk_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in checksum of the tests below does let damage through to the decoders."""
    content = bytearray(CONTENT)
    content[-3] ^= 255
    monkeypatch.setattr(reader, "zlib", SimpleNamespace(crc32=lambda content: _Any()))
    with pytest.raises(AssertionError):
        refused(bytes(content))


def damage(count: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    for _ in range(count):
        content = mutated(draw)
        assert content == CONTENT or refused(content)


def harm(count: int, seed: int) -> None:
    """The same behind checksums that agree: anything may be inside, but nothing else may happen."""
    draw = np.random.default_rng(seed)
    for _ in range(count):
        turn = draw.random() < 0.5
        content = with_damaged_header(draw) if turn else with_new_checksums(mutated(draw))
        if content is None:
            continue
        began = time.perf_counter()
        with contextlib.suppress(PackedFileError):
            PackedReader.from_bytes(content).tensors()
        assert time.perf_counter() - began < 30


def test_damage_is_refused() -> None:
    damage(600, seed=1)


def test_harm_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    harm(100, seed=2)
    monkeypatch.setattr(reader, "zlib", SimpleNamespace(crc32=lambda content: _Any()))
    harm(100, seed=3)


@pytest.mark.slow
def test_much_damage_is_refused() -> None:
    damage(10_000, seed=4)


@pytest.mark.slow
def test_much_harm_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    harm(2_000, seed=5)
    monkeypatch.setattr(reader, "zlib", SimpleNamespace(crc32=lambda content: _Any()))
    harm(5_000, seed=6)


class _Any(int):
    """A checksum that agrees with every other."""

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


def test_the_oracle_sees_a_wrong_value() -> None:
    other = dict(NETWORK)
    other["conv.bias"] = NETWORK["norm.running_mean"]
    with pytest.raises(AssertionError):
        refused(pack(other, PLAN).content)


def test_lengths_are_checked_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        reader, "most_values", lambda size: 10
    )  # as if the header asked for more than its bytes can hold
    with pytest.raises(PackedFileError, match=r"chunk 1: [\d,]+ bytes can't hold [\d,]+ values"):
        PackedReader.from_bytes(CONTENT, "model.lsm")


@pytest.mark.parametrize("shape", [(0, 2**62), (2**40, 0, 2**40), (2**62, 4), (1,) * 33])
def test_impossible_shapes_are_refused(shape: tuple[int, ...]) -> None:
    entry = Entry("w", shape, torch.float32, STORED, torch.float32)
    chunk = Chunk(torch.float32, 1, 8, zlib.crc32(b"\1\0" * 4))
    content = frame.frame(Header("", (entry,), (chunk,))) + b"\1\0" * 4
    with pytest.raises(PackedFileError, match=r"too wide|can't hold|expected a coding"):
        PackedReader.from_bytes(content).tensors()


def test_messages_name_file_chunk_and_expectation() -> None:
    body = bytearray(CONTENT)
    body[-1] ^= 1
    with pytest.raises(
        PackedFileError,
        match=r"model.lsm: chunk \d+: expected checksum [0-9a-f]{8}, found [0-9a-f]{8}; copy it",
    ):
        PackedReader.from_bytes(bytes(body), "model.lsm").tensors()
    with pytest.raises(PackedFileError, match=r"model.lsm: expected a packed file"):
        PackedReader(io.BytesIO(b"PK\3\4 and more than eighteen bytes"), "model.lsm")
    with pytest.raises(PackedFileError, match=r"model.lsm: expected [\d,]+ bytes after the header"):
        PackedReader.from_bytes(CONTENT[:-1], "model.lsm")
    with pytest.raises(PackedFileError, match=r"expected version 2 or 3, got 9"):
        PackedReader.from_bytes(CONTENT[:4] + b"\x09" + CONTENT[5:], "model.lsm")
