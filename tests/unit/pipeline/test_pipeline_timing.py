"""Latencies of a run: compared in turn, predicted from layers, and a reason where they grow."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from lissom.errors import MeasureError
from lissom.export.onnx import export_onnx
from lissom.measure.clock import RuntimeClock
from lissom.measure.latency import Conditions
from lissom.measure.runtime import Runnable
from lissom.pipeline.timing import latencies, outpaced, slowness, unpaid

NETWORKS = nn.Identity(), nn.Linear(1, 1)


class KnownClock:
    """Gives times that were written down before."""

    conditions = Conditions(runs=4)

    def __init__(self, before, after, layers):
        self.times, self.layers = (before, after), layers

    def run(self, files):
        return {place: [self.times[place]] * 4 for place in files}

    def layers_ms(self, network):
        if self.layers is None:
            raise MeasureError("too busy")
        return self.layers[NETWORKS.index(network)]


def timed(before, after, layers):
    return latencies((Path("a"), Path("b")), NETWORKS, KnownClock(before, after, layers))


def test_all_else_is_predicted_to_shrink_with_the_layers():
    before, after = timed(2.0, 1.0, (1.5, 0.6))
    assert (before["median_ms"], before["layers_ms"]) == (2.0, 1.5)
    assert after["predicted_ms"] == pytest.approx(0.8)
    assert after["prediction_error"] == pytest.approx(-0.2)
    assert (after["ratio"], after["ratio_low"], after["ratio_high"]) == (0.5, 0.5, 0.5)
    assert list(slowness(before, after)) == []


def test_without_layers_to_time_nothing_is_predicted():
    _, after = timed(2.0, 1.0, (0.0, 0.0))
    assert after["not_predicted"] == "no layer can be timed by itself"
    assert "predicted_ms" not in after


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        ((1.5, 1.9), r"1\.20 \(1.* to .*\) of the original's time: its weight layers take 1.9 "),
        ((1.5, 1.0), "though its weight layers take 1 instead of 1.5 ms: all else, .* 1.4 .* 0.5 "),
        (None, "of the original's time$"),
    ],
)
def test_a_slower_network_is_owned_up_to_with_the_reason(layers, why):
    before, after = timed(2.0, 2.4, layers)
    (said,) = slowness(before, after)
    assert re.search(why, said), said


def test_decisions_that_cost_time_are_named_and_what_is_not_known_is_said():
    slow = [{"name": name} for name in "abcde"]
    (said,) = unpaid({"never_slower": {"taken_all_the_same": slow}})
    assert said.startswith("a, b, c and 2 more: slower than what they replace")
    (said,) = unpaid({"never_slower": {"not_checked": "too busy"}})
    assert said.endswith("is not known: too busy")
    assert list(unpaid({"never_slower": {"left_out": slow, "taken_all_the_same": []}})) == []


@pytest.mark.parametrize(("int8", "said"), [(1.5, ["1.50 (1.5"]), (0.9, [])])
def test_an_int8_file_that_is_slower_than_the_float_one_is_owned_up_to(int8, said):
    times = iter([[2.0] * 40, [1.0] * 40, [int8 + 0.0001 * n for n in range(40)]])

    class Three(KnownClock):
        def run(self, given):
            return {place: next(times) for place in given}

    *_, rounded = latencies((1, 2, 3), NETWORKS, Three(2.0, 1.0, None))
    found = list(outpaced(rounded))
    assert len(found) == len(said)
    assert all(part in line for part, line in zip(said, found, strict=True))


def test_a_machine_too_busy_for_single_layers_still_compares_the_networks():
    before, after = timed(2.0, 1.0, None)
    assert after["not_predicted"] == "too busy"
    assert after["ratio"] == 0.5
    assert "layers_ms" not in before


def test_a_network_that_is_all_weight_layers_takes_about_what_they_take(tmp_path):
    torch.manual_seed(0)
    example = (torch.randn(1, 32, 28, 28),)
    network = nn.Sequential(*[nn.Conv2d(32, 32, 3, padding=1) for _ in range(4)]).eval()
    half = nn.Sequential(*network[:2])
    clock = RuntimeClock(Conditions(runs=30, warmup=3), example)
    files = tmp_path / "a.onnx", tmp_path / "b.onnx"
    for one, path in zip((network, half), files, strict=True):
        export_onnx(one, example, path)
    given = [Runnable(one, path) for one, path in zip((network, half), files, strict=True)]
    before, after = latencies(given, (network, half), clock)
    assert after["layers_ms"] == pytest.approx(before["layers_ms"] / 2, rel=0.01)
    assert 0.2 < after["ratio"] < 0.9
    assert abs(after["prediction_error"]) < 0.6
