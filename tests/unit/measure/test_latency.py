import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lissom.export.onnx import export_onnx
from lissom.measure.latency import Conditions, compare_latency, onnx_latency, time_ratio


def test_calls_alternate_and_warm_up_first() -> None:
    calls: list[str] = []
    result = compare_latency(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")},
        Conditions(runs=3, warmup=1),
    )
    assert "".join(calls) == "ab" * 4
    assert set(result) == {"a", "b"}


def test_a_slower_call_is_measured_slower() -> None:
    result = compare_latency(
        {"quick": lambda: None, "slow": lambda: time.sleep(0.002)}, Conditions(runs=5, warmup=0)
    )
    assert result["slow"].median_ms >= 2
    assert result["quick"].median_ms < result["slow"].quartile_low_ms


def test_median_and_quartiles_of_known_times(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0, 0.001, 0, 0.002, 0, 0.003, 0, 0.004, 0, 0.005])
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    latency = compare_latency({"a": lambda: None}, Conditions(runs=5, warmup=0))["a"]
    figures = (latency.quartile_low_ms, latency.median_ms, latency.quartile_high_ms)
    assert figures == pytest.approx((2, 3, 4))


def test_onnx_files_state_their_conditions(tmp_path: Path) -> None:
    export_onnx(nn.Linear(3, 2), (torch.randn(2, 3),), tmp_path / "a.onnx")
    conditions = Conditions(batch=4, threads=1, runs=2, warmup=0)
    stated = onnx_latency({"a": tmp_path / "a.onnx"}, (torch.randn(4, 3),), conditions)[
        "a"
    ].to_dict()
    assert stated["batch"] == 4
    assert stated["threads"] == 1
    assert stated["runs"] == 2
    assert stated["runtime"].startswith("onnxruntime ")
    assert stated["median_ms"] > 0


def test_conditions_that_measure_nothing() -> None:
    with pytest.raises(ValueError, match="runs must be at least 2, got 1"):
        Conditions(runs=1)


@given(
    st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=1, max_size=60),
    st.floats(0.5, 2),
)
def test_the_ratio_of_times_lies_within_its_bounds_and_scales(pairs, factor) -> None:
    times, reference = zip(*pairs, strict=True)
    ratio = time_ratio(times, reference)
    assert ratio.low <= ratio.median <= ratio.high
    scaled = time_ratio([factor * one for one in times], reference)
    assert scaled.median == pytest.approx(factor * ratio.median)


def test_the_bounds_of_a_ratio_are_those_of_the_sign_test() -> None:
    ratio = time_ratio([100 + place for place in range(50)], [100] * 50)
    # Of 50 pairs the 19th and the 32nd: binomial(50, 1/2) is within 18..31 in 95 %.
    assert (ratio.low, ratio.high) == (1.18, 1.31)
    assert ratio.slower


def test_a_pause_of_the_machine_hits_both_networks_of_a_pair_alike() -> None:
    pace = [1, 1, 8, 8, 8, 1, 1, 1, 30, 30]
    ratio = time_ratio([1.1 * one for one in pace], pace)
    assert (ratio.low, ratio.high) == pytest.approx((1.1, 1.1))
