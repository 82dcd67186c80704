"""A decoder of modelled levels, written from docs/packed-format.md alone: slow, plain, no numpy."""

import math
from collections.abc import Callable, Iterator
from itertools import product

WORD = 2**64 - 1
CONSTANT, DENSITY, POSITION = (0, 0, -74), (58, 56, 58), (47, 45, 42)
ROW, COLUMN, KERNEL, BESIDE = (37, 34, 40), (38, 40, 35), (13, 20, 6), (0, 13, 26)
CLEAR, SLIGHT = (0, 67, 100), (0, -51, -74)
PULL = ({}, {1: 148, 2: 42, 4: -63}, {1: 236, 2: -50, 4: -26, 5: -35, 8: 12})


def stream(content: bytes) -> Callable[[int], int]:
    words = iter([content[i : i + 4].ljust(4, b"\0") for i in range(0, len(content), 4)])

    def word() -> int:
        return int.from_bytes(next(words, b""), "big")

    low, size, point = 0, WORD, word() << 32 | word()

    def bit(p: int) -> int:
        nonlocal low, size, point
        zero = ((2**24 - 2) * (65536 - p) >> 16) + 1
        part = size >> 24
        found = int((point - low) & WORD >= part * zero)
        if found:
            low, size = low + part * zero & WORD, part * (2**24 - zero)
        else:
            size = part * zero
        if size < 2**32:
            low, size, point = low << 32 & WORD, size << 32, (point << 32 | word()) & WORD
        return found

    return bit


def lg(x: int) -> int:
    b = x.bit_length() - 1
    f = 1024 * x // 2**b - 1024
    return 256 * b + round(256 * math.log2(1 + f / 1024))


def clip(x: int, a: int, b: int) -> int:
    return max(a, min(b, x))


def chance(logit: int) -> int:
    return clip(round(65536 / (1 + 2 ** (-logit / 64))), 16, 65520)


class Corrected:
    def __init__(self, bit: Callable[[int], int]) -> None:
        self.bit, self.seen, self.ones = bit, [0] * 48, [0] * 48

    def code(self, logits: list[int]) -> list[int]:
        places = [clip(logit, -768, 767) for logit in logits]
        found = []
        for place in places:
            j = (place + 768) // 32
            learned = (65536 * self.ones[j] + 32 * chance(32 * j - 752)) // (self.seen[j] + 32)
            found.append(self.bit(clip(chance(place) + learned >> 1, 16, 65520)))
        for place, one in zip(places, found, strict=True):
            self.seen[(place + 768) // 32] += 1
            self.ones[(place + 768) // 32] += one
        return found


class Steps:
    def __init__(self, bit: Callable[[int], int]) -> None:
        self.bit, self.counts = bit, {}

    def code(self, step: object, contexts: list[int]) -> list[int]:
        counts = self.counts.setdefault(step, {})
        s, o = sum(c[0] for c in counts.values()), sum(c[1] for c in counts.values())
        parent = 65536 * (2 * o + 1) // (2 * s + 2)
        found = []
        for context in contexts:
            seen, ones = counts.get(context, (0, 0))
            found.append(self.bit(clip((65536 * ones + 8 * parent) // (seen + 8), 16, 65520)))
        for context, one in zip(contexts, found, strict=True):
            seen, ones = counts.get(context, (0, 0))
            counts[context] = (seen + 1, ones + one)
        return found


def magnitudes(steps: Steps, largest: int, contexts: list[int]) -> list[int]:
    sizes, values = [0] * len(contexts), [1] * len(contexts)
    left = list(range(len(contexts)))
    for i in range(largest if left else 0):
        more = steps.code(("size", i), [contexts[x] for x in left])
        left = [x for x, one in zip(left, more, strict=True) if one]
        for x in left:
            sizes[x] += 1
    for i in range(largest):
        deeper = [x for x in range(len(contexts)) if sizes[x] > i]
        if i < 3:
            digits = steps.code(("bits", i), [8 * sizes[x] + values[x] for x in deeper])
        else:
            digits = [steps.bit(32768) for _ in deeper]
        for x, digit in zip(deeper, digits, strict=True):
            values[x] = 2 * values[x] + digit
    return values


def parts(length: int, k: int) -> list[range]:
    return [range(length * i // k, length * (i + 1) // k) for i in range(k)]


def blocks(rows: int, columns: int, alone: bool, first: bool) -> Iterator[tuple[range, range]]:
    down = max(4 if alone else 2, -(-rows * columns // 65536))
    for c in parts(columns, 4 if alone else 2 if first else 1):
        for r in parts(rows, down):
            if len(r) and len(c):
                yield r, c


def decode(content: bytes, shape: tuple[int, ...], told: dict[str, int]) -> dict:
    """Give level by (row, column, position)."""
    return modelled(stream(content), shape, told)


def modelled(bit: Callable[[int], int], shape: tuple[int, ...], told: dict[str, int]) -> dict:
    R, C, H, W = shape
    zeros, signs, steps = Corrected(bit), Corrected(bit), Steps(bit)
    order = sorted(range(H * W), key=lambda p: (
        abs(2 * (p // W) - H + 1) + abs(2 * (p % W) - W + 1), p))  # fmt: skip
    q: dict[tuple[int, int, int], int] = {}

    def loud(keys: list[tuple[int, int, int]]) -> int:
        return sum(min(abs(q[key]), 255) for key in keys)

    for number, p in enumerate(order):
        before = order[:number]
        far = {o: (p // W - o // W) ** 2 + (p % W - o % W) ** 2 for o in before}
        beside = [o for o in before if far[o] == 1]
        kind = min(len(beside), 2)
        for rows, columns in blocks(R, C, H * W == 1, number == 0):
            n, z, total = len(q), sum(v != 0 for v in q.values()), loud(list(q))
            a, b = 2 * total + 1, 2 * n + 4
            m = max(1, 512 * a // b)

            def energy(s: int, c: int, a: int = a, b: int = b, m: int = m) -> int:
                return lg(256 * s + m) - 2048 - lg(c + 2) - (lg(a) - lg(b))

            def of(keys: list) -> int:
                return energy(loud(keys), len(keys))

            d = lg(2 * z + 1) - lg(2 * (n - z) + 1) if n else 32 * (told["density"] - 128)
            here = of([key for key in q if key[2] == p])
            by_row = {r: of([key for key in q if key[0] == r]) for r in rows}
            by_column = {c: of([key for key in q if key[1] == c]) for c in columns}
            cells = list(product(rows, columns))
            logits, loudness, tilts = [], [], []
            for r, c in cells:
                kernel = of([(r, c, o) for o in before])
                near = of([(r, c, o) for o in beside])
                tilt = sum(
                    ((q[r, c, o] > 0) - (q[r, c, o] < 0)) * PULL[kind].get(far[o], 0)
                    for o in before
                )
                t = abs(tilt)
                logits.append(
                    CONSTANT[kind]
                    + (DENSITY[kind] * d >> 6)
                    + (POSITION[kind] * here >> 6)
                    + (ROW[kind] * told["channels"] * by_row[r] >> 8)
                    + (COLUMN[kind] * told["channels"] * by_column[c] >> 8)
                    + (KERNEL[kind] * told["kernel"] * kernel >> 8)
                    + (BESIDE[kind] * told["kernel"] * near >> 8)
                    + ((CLEAR[kind] * t + SLIGHT[kind] * min(t, 186)) * told["kernel"] >> 8)
                )
                energies = 2 * by_row[r] + 3 * by_column[c] + 2 * kernel + 2 * near >> 3
                loudness.append(clip(energies + 320 >> 7, 0, 4))
                tilts.append(tilt)
            non_zero = [i for i, x in enumerate(zeros.code([x >> 2 for x in logits])) if x]
            sizes = magnitudes(steps, told["largest"], [loudness[i] for i in non_zero])
            positive = signs.code([tilts[i] * told["signs"] >> 2 for i in non_zero])
            found = dict.fromkeys(range(len(cells)), 0)
            for i, size, plus in zip(non_zero, sizes, positive, strict=True):
                found[i] = size if plus else -size
            q.update({(*cells[i], p): value for i, value in found.items()})
    return q


class Differences:
    def __init__(self, content: bytes) -> None:
        self.bit = stream(content)
        self.seen: dict[tuple[str, int], list[int]] = {}

    def learned(self, what: str, context: int) -> int:
        zeros, ones = self.seen.setdefault((what, context), [0, 0])
        found = self.bit(clip(65536 * (2 * ones + 1) // (2 * (zeros + ones + 1)), 16, 65520))
        self.seen[what, context][found] += 1
        return found

    def next(self, what: str, off: int) -> int:
        expected = (lg(off + 1) - 1024) // 128
        size = 0
        while size < 31 and self.learned(what, clip(2 * size - expected, -8, 7)):
            size += 1
        if not size:
            return 0
        value = 1
        if size > 1:
            value = 2 + self.learned(what + " half", clip(2 * size - expected, -8, 7))
        for _ in range(size - 2):
            value = 2 * value + self.bit(32768)
        return value if self.bit(32768) else -value


def numbers(content: bytes, counts: list[int]) -> list[tuple[int, int, list[int]]]:
    """Give kind, place and numbers of each vector in a chunk of numbers."""
    differences = Differences(content)
    places, centres, spreads, last = [0, 0], [0, 0], [0, 0], 0
    result = []
    for count in counts:
        last = kind = differences.learned("kind", last)
        places[kind] += differences.next("place", 0)
        shift = max(0, 23 - places[1]) if kind else 0
        total, off = centres[kind] >> shift, 2 * (spreads[kind] >> shift)
        values: list[int] = []
        for i in range(count):
            centre = total // (i + 1)
            step = differences.next("size", off // (i + 2))
            values.append(centre + step)
            total, off = total + centre + step, off + 16 * abs(step)
        if count:
            spreads[kind] = off // (count + 2) << shift
            centres[kind] = total // (count + 1) << shift if kind else 0
        result.append((kind, places[kind], values))
    return result


class Bytes:
    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def byte(self) -> int:
        self.at += 1
        return self.content[self.at - 1]

    def varint(self) -> int:
        low = self.byte()
        return low if low < 128 else low - 128 + 128 * self.varint()

    def zigzag(self) -> int:
        value = self.varint()
        return -(value + 1) // 2 if value % 2 else value // 2


def matrices(given: Bytes, shapes: list[tuple[int, int]]) -> list[list[int]]:
    """Give the levels of a chunk of matrices, row by row."""
    told: list[list[int] | dict[str, int]] = []
    for rows, columns in shapes:
        first = given.byte()
        if first % 4 == 1:
            told.append([given.zigzag()] * (rows * columns))
        elif first % 4 == 2:
            width, least = given.byte(), given.zigzag()
            size = -(-rows * columns * width // 8)
            bits = "".join(f"{given.byte():08b}" for _ in range(size))
            starts = range(0, rows * columns * width, width)
            told.append([int(bits[i : i + width], 2) + least for i in starts])
        else:
            density, largest = given.byte(), given.byte()
            told.append({
                "density": density, "largest": largest, "signs": (4, 0, 2, 6)[first >> 6],
                "channels": (4, 2, 3, 5)[first >> 4 & 3], "kernel": (4, 2, 3, 5)[first >> 2 & 3],
            })  # fmt: skip
    bit, found = stream(given.content[given.at :]), []
    for (rows, columns), one in zip(shapes, told, strict=True):
        if isinstance(one, list):
            found.append(one)
            continue
        cells = modelled(bit, (rows, columns, 1, 1), one)
        found.append([cells[r, c, 0] for r in range(rows) for c in range(columns)])
    return found


def long_numbers(content: bytes, counts: list[int]) -> list[tuple[int, int, list[int]]]:
    """Give kind, place and numbers of each vector in values of form 4, after that byte."""
    given = Bytes(content)
    heads = [(given.byte(), given.zigzag(), given.zigzag()) for _ in counts]
    levels = matrices(given, [(-(-count // 64), 64) for count in counts])
    return [
        (kind, place, [centre + level for level in found[:count]])
        for (kind, place, centre), found, count in zip(heads, levels, counts, strict=True)
    ]
