"""How long single operations take in the runtime on this machine; remembered on disk."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from statistics import quantiles

from lissom.errors import MeasureError
from lissom.measure.onnx_runtime import OnnxRuntime
from lissom.measure.operation import Operation
from lissom.measure.runtime import Runtime
from lissom.train.machine import processor_name

_ROUNDS = 6
_DISPATCH = "dispatch"
_SPREAD = 0.15  # of the fastest run; a round that is within it needs no other
_TOO_NOISY = 1.0
_WEIGHTS = 24_000_000  # values in one graph
_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class OperationTime:
    """What an operation takes.

    Attributes:
        nanoseconds: Lower quartile over the runs: interruptions only ever add time.
        spread: (lower quartile - fastest) / fastest.
    """

    nanoseconds: int
    spread: float


class OperationTimes:
    """Times of operations on one thread count and batch size, measured when first asked for.

    What the runtime counts is the operation alone: conversions between memory layouts or numbers,
    which the network around a layer does without, are left out as far as the runtime tells.

    Attributes:
        measured: How many have been, rather than read.
    """

    def __init__(
        self,
        threads: int = 1,
        batch: int = 1,
        folder: Path | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        """Measure nothing yet.

        Args:
            threads: Of the runtime.
            batch: Samples per call.
            folder: Where ``times.sqlite`` outlives the run; None: nowhere.
            runtime: What runs the operations; ONNX Runtime by default.
        """
        self.threads, self.batch = threads, batch
        self.measured = 0
        self._runtime = runtime or OnnxRuntime()
        self._path = None if folder is None else folder / "times.sqlite"
        self._where = json.dumps([self._runtime.label, processor_name(), threads, batch])
        self._known: dict[Operation, OperationTime] = {}
        self._dispatch: int | None = None

    def __getitem__(self, operation: Operation) -> OperationTime:
        """Give the time of one operation.

        Raises:
            MeasureError: The machine is too busy to tell.
        """
        return self.of([operation])[operation]

    def of(self, operations: Iterable[Operation]) -> dict[Operation, OperationTime]:
        """Give the times of several operations; those that are not known are measured together.

        Raises:
            MeasureError: The machine is too busy to tell.
        """
        wanted = tuple(dict.fromkeys(operations))
        missing = [one for one in wanted if one not in self._known]
        kept = self._read(map(_key, missing))
        self._known.update({one: kept[_key(one)] for one in missing if _key(one) in kept})
        for part in _portions([one for one in missing if one not in self._known]):
            found = self._measure(part)
            self._known.update(found)
            self._write({_key(one): taken for one, taken in found.items()})
            self.measured += len(found)
        return {one: self._known[one] for one in wanted}

    @property
    def dispatch(self) -> int:
        """Nanoseconds that the runtime needs to start one operation."""
        if self._dispatch is None:
            kept = self._read([_DISPATCH]).get(_DISPATCH)
            self._dispatch = (
                self._runtime.start_up(self.threads) if kept is None else kept.nanoseconds
            )
            if kept is None:
                self._write({_DISPATCH: OperationTime(self._dispatch, 0.0)})
        return self._dispatch

    def _measure(self, operations: Sequence[Operation]) -> dict[Operation, OperationTime]:
        """Run all operations in turn, again and again, until none of them jitters any more."""
        samples = self._runtime.samples(operations, self.batch, self.threads)
        times: list[list[float]] = [[] for _ in operations]
        found: list[OperationTime] = []
        for _ in range(_ROUNDS):
            for operation, known, taken in zip(operations, times, samples(), strict=True):
                known.extend(taken)
                if not known:
                    raise MeasureError(
                        f"latency: {self._runtime.label} tells no time for {operation}; ignore "
                        "the layer that it belongs to, or limit macs instead"
                    )
            found = [_summary(known) for known in times]
            if all(one.spread <= _SPREAD for one in found):
                break
        for operation, one, known in zip(operations, found, times, strict=True):
            if one.spread > _TOO_NOISY:
                raise MeasureError(
                    f"latency: the machine is too busy to time {operation}: a quarter of "
                    f"{len(known)} runs took less than {one.nanoseconds / 1e3:,.0f} us, the "
                    f"fastest {one.nanoseconds / (1 + one.spread) / 1e3:,.0f} us; stop what runs "
                    "beside it, or set fewer threads than there are cores"
                )
        return dict(zip(operations, found, strict=True))

    def _read(self, keys: Iterable[str]) -> dict[str, OperationTime]:
        if self._path is None or not self._path.exists():
            return {}
        found = {}
        with self._database() as database:
            for key in keys:
                row = database.execute(
                    "SELECT nanoseconds, spread FROM times WHERE place = ? AND operation = ?",
                    (self._where, key),
                ).fetchone()
                if row is not None:
                    found[key] = OperationTime(*row)
        return found

    def _write(self, found: Mapping[str, OperationTime]) -> None:
        if self._path is None:
            return
        rows = [(self._where, key, one.nanoseconds, one.spread) for key, one in found.items()]
        with self._database() as database, database:
            database.executemany("INSERT OR REPLACE INTO times VALUES (?, ?, ?, ?)", rows)

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        assert self._path is not None
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._path, timeout=60)) as database:
                database.execute(
                    "CREATE TABLE IF NOT EXISTS times (place TEXT, operation TEXT, "
                    "nanoseconds INTEGER, spread REAL, PRIMARY KEY (place, operation))"
                )
                yield database
        except (sqlite3.Error, OSError) as error:
            raise MeasureError(
                f"{self._path}: measured times can't be kept there ({error}); delete the file if "
                "it is damaged, or choose another cache folder"
            ) from error


def _key(operation: Operation) -> str:
    return json.dumps(operation.to_dict())


def _portions(operations: Sequence[Operation]) -> Iterator[tuple[Operation, ...]]:
    """Divide operations so that their weights fit into memory together."""
    part: list[Operation] = []
    weights = 0
    for one in operations:
        size = prod(one.weight_shape)
        if part and (weights + size > _WEIGHTS or len(part) == _AT_ONCE):
            yield tuple(part)
            part, weights = [], 0
        part.append(one)
        weights += size
    if part:
        yield tuple(part)


def _summary(times: Sequence[float]) -> OperationTime:
    low = quantiles(times, n=4, method="inclusive")[0]
    fastest = min(times)
    # The profile cuts fractions of a microsecond off: up to one of difference means nothing.
    spread = max(low - fastest - 1, 0.0) / max(fastest, 1.0)
    return OperationTime(round(low * 1e3) + 500, spread)
