from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from lissom.extension import Proposal
from lissom.graph.capture import capture
from lissom.measure.clock import RuntimeClock
from lissom.measure.latency import Conditions
from lissom.measure.memory import peak_activation_bytes
from lissom.methods.edp import Edp
from lissom.pipeline.evidence import Stage
from lissom.pipeline.feasibility import feasibility
from lissom.pipeline.reporting import Run, Side, report_of
from lissom.plan.budget import Budget
from lissom.plan.build import build
from lissom.plan.low_rank import ChannelSVD
from lissom.plan.plan import Plan
from lissom.report.measured import StepRow
from lissom.report.report import Report
from lissom.task import Classification
from lissom.train.history import History

INPUTS = (torch.zeros(1, 3, 8, 8),)
TRAINED = {"epochs": [{"epoch": 0, "loss": 1.5}]}


def proposal(training: dict[str, object] | None, evidence: dict[str, object]) -> Proposal:
    return Proposal(Plan(()), {}, capture(network(), INPUTS).cost, {}, {}, evidence, training)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 4)
    ).eval()


def reported(*stages: tuple[str, Proposal]) -> Report:
    model = network()
    new = build(model, Plan((ChannelSVD("0", 2),))).eval()
    graphs = capture(model, INPUTS), capture(new, INPUTS)
    budget = Budget.parse("macs=0.9")
    run = Run(
        Classification(),
        (Side(model, graphs[0], 0.9), Side(new, graphs[1], 0.8)),
        tuple(
            Stage(
                StepRow(number, name, 1, 1, {}, 0, metric_raw=0.7),
                decided,
                Plan(()),
                History((), "cpu", "32", "no"),
            )
            for number, (name, decided) in enumerate(stages)
        ),
        feasibility([Edp()], budget, graphs[0].cost, lambda _stage: graphs[1].cost),
        {"recover": {"seed": 3}},
    )
    report, _ = report_of(run, INPUTS, RuntimeClock(Conditions(runs=2, warmup=0), INPUTS), {})
    return report


@pytest.fixture(scope="module")
def report() -> Report:
    learned = {"accuracy_before_merge": 0.9, "accuracy_after_merge": 0.9}
    return reported(
        ("edp", proposal(TRAINED, learned)),
        ("hmc", proposal(None, {"tau": 0.5})),
        ("edp", proposal(TRAINED, {"merged": ["0"]})),
        ("layers", proposal({}, {"of": "another package"})),
    )


def test_each_stage_that_trained_has_a_section_under_a_free_name(report: Report) -> None:
    content = report.to_dict()
    assert content["method_sections"] == ["edp", "edp_2", "layers_2"]
    assert content["edp"] == {"accuracy_before_merge": 0.9, "accuracy_after_merge": 0.9}
    assert content["edp_2"] == {"merged": ["0"]}
    assert content["layers_2"] == {"of": "another package"}
    assert content["layers"][0]["name"] == "0"


def test_a_stage_that_settled_all_values_has_a_section_without_training() -> None:
    settled = replace(proposal(None, {"left_alone": {"0": "ignored"}}), settled=True)
    report = reported(("ajc", settled))
    assert report.methods == {"ajc": {"left_alone": {"0": "ignored"}}}
    assert report.evidence["method"] == {}
    assert "training" not in report.evidence


def test_trainings_of_methods_stand_beside_the_recoveries(report: Report) -> None:
    assert report.evidence["training"] == [TRAINED, None, TRAINED, {}]
    assert len(report.evidence["recovery"]) == 4
    assert report.evidence["method"] == {}


def test_memory_is_measured_on_both_networks(report: Report) -> None:
    assert report.original.peak_memory_bytes == peak_activation_bytes(network(), INPUTS)
    # The input, the two channels between the factors and the eight after them.
    assert report.original.peak_memory_bytes == 4 * 64 * (3 + 8 + 8)
    assert report.compressed.peak_memory_bytes == 4 * 64 * (3 + 8 + 8)
    assert report.compressed.metric_raw == 0.7
    assert report.original.metric_raw is None


def test_a_method_without_training_has_its_evidence_where_it_always_was() -> None:
    report = reported(("hmc", proposal(None, {"tau": 0.5})))
    assert report.methods == {}
    assert report.evidence["method"] == {"tau": 0.5}
    assert "training" not in report.evidence
