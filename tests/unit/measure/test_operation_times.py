"""Times of single operations in the runtime."""

import pytest

from lissom.errors import MeasureError
from lissom.measure import operation_times
from lissom.measure.operation import Operation
from lissom.measure.operation_graph import durations
from lissom.measure.operation_times import OperationTimes

SMALL = Operation(8, 8, (8, 8), (3, 3), padding=(1, 1, 1, 1))
LARGE = Operation(64, 64, (32, 32), (3, 3), padding=(1, 1, 1, 1))
OTHERS = (
    Operation(64, 64, (32, 32), (3, 3), padding=(1, 1, 1, 1), groups=64),
    Operation(33, 20, (9, 7), (1, 3), stride=(1, 2)),
    Operation(256, 128, (1, 4)),
)


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


def test_a_machine_that_is_too_busy_gives_no_time(monkeypatch):
    def profile(self, content, feed):
        return {0: [5.0, 5.0, *[300.0 + i for i in range(11)]]}

    monkeypatch.setattr(OperationTimes, "_profile", profile)
    with pytest.raises(MeasureError, match="too busy to time Operation"):
        OperationTimes().of([SMALL])


def test_interruptions_alone_do_not_count(monkeypatch):
    rounds = []

    def profile(self, content, feed):
        rounds.append(1)
        return {0: [900.0, *[40.0] * 6, *[20_000.0] * 6]}

    monkeypatch.setattr(OperationTimes, "_profile", profile)
    assert OperationTimes()[SMALL].nanoseconds == 40_500
    assert len(rounds) == 1


def test_large_weights_are_measured_in_several_graphs(monkeypatch):
    monkeypatch.setattr(operation_times, "_WEIGHTS", 600)
    graphs = []

    def profile(self, content, feed):
        graphs.append(content)
        return {place: [9.0] * 13 for place in range(content.count(b"Relu"))}

    monkeypatch.setattr(OperationTimes, "_profile", profile)
    OperationTimes().of([SMALL, Operation(8, 9, (8, 8), (3, 3)), Operation(4, 4, (2, 2), (1, 1))])
    assert len(graphs) == 3


def test_profile_events_are_told_apart_by_name():
    def event(name, operator="Conv", category="Node"):
        return {"cat": category, "name": name, "dur": 7, "args": {"op_name": operator}}

    events = [
        event("y3_nchwc_kernel_time"),
        event("z3_nchwc_kernel_time"),
        event("fused y12_kernel_time", "FusedGemm"),
        event("z3_kernel_time", "Relu"),
        event("ReorderOutput_token_1_kernel_time", "ReorderOutput"),
        event("y3_fence_before"),
        event("y4_kernel_time", category="Session"),
    ]
    assert durations(events) == {3: [7.0, 7.0], 12: [7.0]}
