"""Times of single operations in the runtime."""

import pytest

from lissom.errors import MeasureError
from lissom.measure import operation_times
from lissom.measure.operation import Operation
from lissom.measure.operation_times import OperationTimes

SMALL = Operation(8, 8, (8, 8), (3, 3), padding=(1, 1, 1, 1))
LARGE = Operation(64, 64, (32, 32), (3, 3), padding=(1, 1, 1, 1))
OTHERS = (
    Operation(64, 64, (32, 32), (3, 3), padding=(1, 1, 1, 1), groups=64),
    Operation(33, 20, (9, 7), (1, 3), stride=(1, 2)),
    Operation(256, 128, (1, 4)),
)


class Told:
    """A runtime whose samples are given."""

    label = "told 1"

    def __init__(self, samples):
        self.given, self.rounds, self.asked = samples, 0, []

    def samples(self, operations, batch, threads):
        self.asked.append(len(operations))

        def once():
            self.rounds += 1
            return [list(self.given) for _ in operations]

        return once


def test_every_kind_of_operation_is_timed_and_more_work_takes_longer():
    found = OperationTimes().of([SMALL, LARGE, *OTHERS])
    assert set(found) == {SMALL, LARGE, *OTHERS}
    assert all(one.nanoseconds > 0 for one in found.values())
    assert found[LARGE].nanoseconds > 5 * found[SMALL].nanoseconds


def test_known_times_cost_nothing_and_outlive_the_run(tmp_path):
    first = OperationTimes(folder=tmp_path)
    found = first.of([SMALL, *OTHERS, SMALL])
    assert first.measured == 4
    again = OperationTimes(folder=tmp_path)
    assert again.of([SMALL, *OTHERS]) == found
    assert again.measured == 0
    assert again.dispatch >= 0
    assert OperationTimes(folder=tmp_path).dispatch == again.dispatch


def test_other_threads_and_batches_are_other_times(tmp_path):
    OperationTimes(folder=tmp_path).of([SMALL])
    other = OperationTimes(batch=4, folder=tmp_path)
    other.of([SMALL])
    assert other.measured == 1


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "times.sqlite").write_bytes(b"this is no database" * 100)
    with pytest.raises(MeasureError, match=r"times\.sqlite.*delete the file"):
        OperationTimes(folder=tmp_path).of([SMALL])


def test_a_machine_that_is_too_busy_gives_no_time():
    busy = Told([5.0, *[300.0 + i for i in range(11)]])
    with pytest.raises(MeasureError, match=r"too busy to time Operation.* a quarter of 72 runs"):
        OperationTimes(runtime=busy).of([SMALL])


def test_a_runtime_that_says_nothing_of_an_operation_is_named():
    with pytest.raises(MeasureError, match="told 1 tells no time for Operation"):
        OperationTimes(runtime=Told([])).of([SMALL])


def test_interruptions_alone_do_not_count():
    interrupted = Told([*[40.0] * 6, *[20_000.0] * 6])
    assert OperationTimes(runtime=interrupted)[SMALL].nanoseconds == 40_500
    assert interrupted.rounds == 1


def test_large_weights_are_measured_in_several_graphs(monkeypatch):
    monkeypatch.setattr(operation_times, "_WEIGHTS", 600)
    told = Told([9.0] * 12)
    others = Operation(8, 9, (8, 8), (3, 3)), Operation(4, 4, (2, 2), (1, 1))
    OperationTimes(runtime=told).of([SMALL, *others])
    assert told.asked == [1, 1, 1]
