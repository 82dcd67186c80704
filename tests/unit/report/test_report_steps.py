"""A run in several steps, in every view."""

from dataclasses import replace

import pytest

from lissom.report.html import page
from lissom.report.measured import MetricValue, StepRow
from lissom.report.report import Report
from lissom.report.steps import step_cells
from lissom.report.terminal import as_text, layout
from report_samples import REPORT

STEPS = (
    StepRow(0, "hmc", 1, 2, {"macs": 3_302_000.0}, 1, 3_900, 3_300_000, 0.5123, 0.912),
    StepRow(0, "hmc", 2, 2, {"macs": 2_580_560.0}, 8, 2_266, 2_113_696, 0.871, 0.929),
)
STEPPED = replace(REPORT, steps=STEPS)
ACCURACY = MetricValue("accuracy", 0.9, "fraction", True)


def test_steps_are_in_the_json_and_come_back() -> None:
    content = STEPPED.to_dict()
    assert content["steps"][0] == {
        "stage": 0,
        "method": "hmc",
        "iteration": 1,
        "iterations": 2,
        "asked": {"macs": 3_302_000.0},
        "epochs": 1,
        "params": 3_900,
        "macs": 3_300_000,
        "metric_raw": 0.5123,
        "metric": 0.912,
    }
    assert Report.from_dict(content).steps == STEPS


def test_a_run_in_one_step_says_nothing_of_steps() -> None:
    assert "steps" not in REPORT.to_dict()
    assert Report.from_dict(REPORT.to_dict()).steps == ()
    assert "\nSteps\n" not in as_text(layout(REPORT))
    assert "<h2>Steps" not in page(REPORT)


def test_the_terminal_shows_each_step_within_its_width() -> None:
    text = as_text(layout(STEPPED))
    assert "\nSteps\n" in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "hmc 1/2 macs 3.302M 3.300M 3.900k 1 51.23 % 91.20 %" in lines
    assert "hmc 2/2 macs 2.581M 2.114M 2.266k 8 87.10 % 92.90 %" in lines
    assert max(map(len, text.splitlines())) <= 100


def test_only_each_step_says_what_it_had_before_recovery() -> None:
    text, shown = as_text(layout(STEPPED)), page(STEPPED)
    for before_alone in ("accuracy before recovery  ", "<td>accuracy before recovery</td>"):
        assert before_alone not in text + shown
        assert before_alone in as_text(layout(REPORT)) + page(REPORT)
    assert "accuracy after recovery" in text


def test_branches_that_went_are_named_once_whatever_the_steps() -> None:
    first, second = {"dropped": {"layer1.2": ["layer1.2.conv1"]}}, {"dropped": {"layer3.1": []}}
    alone = replace(REPORT, evidence={"method": first})
    assert "Residual branches dropped, 1: layer1.2." in as_text(layout(alone))
    steps = [{"method": first}, None, {"method": second}]
    several = replace(STEPPED, evidence={"method": first, "steps": steps})
    assert "Residual branches dropped, 2: layer1.2, layer3.1." in as_text(layout(several))
    assert "branches" not in as_text(layout(REPORT))


def test_the_page_shows_what_each_branch_harms_and_saves() -> None:
    assert "Residual branches" not in page(REPORT)
    saves = {"params": 9, "macs": 4_096, "ms": 0.0}
    rows = [
        {"name": "a", "layers": ["a.1"], "harm": 0.01234, "saves": saves, "dropped": True},
        {"name": "b", "layers": ["b.1"], "harm": None, "saves": saves | {"ms": 0.25}},
    ]
    rows[1]["dropped"] = False
    shown = page(replace(REPORT, evidence={"method": {"branches": rows}}))
    number = '<td class="number">'
    assert f"<td>a</td>{number}0.012</td>{number}4,096 MACs</td><td>yes</td>" in shown
    assert f"<td>b</td>{number}–</td>{number}0.25 ms</td><td></td>" in shown


def test_the_page_shows_each_step() -> None:
    shown = page(STEPPED)
    assert "<h2>Steps</h2>" in shown
    assert '<th class="number">accuracy before recovery</th>' in shown
    assert '<td>hmc 1/2</td><td>macs 3.302M</td><td class="number">3.300M</td>' in shown
    assert '<td class="number">51.23 %</td><td class="number">91.20 %</td>' in shown


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"macs": 1e6, "params": 2000.0}, "macs 1.000M, params 2.000k"),
        ({"size": 10_480.0, "max_drop": 1.5}, "size 10.5 kB, max_drop 1.5 points"),
        ({"latency": 2.5}, "latency 2.5 ms"),
        ({"latency": "2x"}, "latency 2x"),
    ],
)
def test_limits_are_written_in_their_units(asked: dict[str, float | str], text: str) -> None:
    cells = step_cells(StepRow(1, "ajc", 1, 1, asked, 10), ACCURACY)
    assert cells == ("ajc", text, "–", "–", "10", "–", "–")
