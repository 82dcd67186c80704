"""A budget in bytes of the real file, from the command to the report."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lissom
from lissom.artifacts import load_report, pack_folder, weights_content
from lissom.errors import BudgetError
from lissom.measure.latency import Conditions
from lissom.packed.network import packed_network, stored_state
from lissom.plan.build import apply_values
from lissom.plan.cost import Cost
from lissom.plan.quantize import Quantize

SHAPE = (1, 3, 6, 6)


class Rounded:
    """Rounds every weight to few levels, with ever larger steps until the real file fits."""

    name = "rounded"
    trains = False
    limits = frozenset({"size", "max_drop"})

    def __init__(self, *, generous: int = 1) -> None:
        self.generous = generous

    def smallest(self, view: lissom.ModelView) -> Cost:
        return Cost(1, 1, 32)

    def plan(self, view: lissom.ModelView, budget: lissom.Budget) -> lissom.Proposal:
        limit = budget.bytes_limit(view.graph.cost) or 10**9
        for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5):
            proposal = self._rounded(view, step)
            state = stored_state(view.model) | dict(proposal.values)
            assert view.base is not None
            packed = packed_network(state, view.base + proposal.plan)
            if len(packed.content) <= self.generous * limit:
                return proposal
        raise AssertionError("nothing fits")

    def _rounded(self, view: lissom.ModelView, step: float) -> lissom.Proposal:
        decisions, values = [], {}
        for name, layer in view.model.named_modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                levels = torch.round(layer.weight.detach() / step) + 0.0  # no zeros with a sign
                bits = 1 + max(int(levels.abs().max()) - 1, 0).bit_length()
                count = int(levels.count_nonzero())
                decisions.append(Quantize(name, bits, count, channel_scales=False))
                values[f"{name}.weight"] = levels * step
        plan = lissom.Plan(tuple(decisions))
        return lissom.Proposal(plan, values, view.graph.cost, settled=True)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3),
        nn.Flatten(),
        nn.Linear(256, 4),
    )


def compressed(budget: str, *methods: object) -> lissom.Result:
    images = torch.randn(64, *SHAPE[1:], generator=torch.Generator().manual_seed(0))
    targets = network().eval()(images).argmax(1)  # the original is right everywhere
    batches = DataLoader(TensorDataset(images, targets), batch_size=32)
    recover = lissom.TrainSettings(epochs=1, recalibration_images=64, device="cpu")
    return lissom.compress(
        network(),
        (torch.zeros(SHAPE),),
        data=lissom.Data(batches, batches, batches, batches),
        method=methods or [Rounded()],
        budget=budget,
        settings=lissom.Settings(
            recover=recover, latency=Conditions(runs=2, warmup=0), allow_slower=True
        ),
    )


@pytest.fixture(scope="module")
def result() -> lissom.Result:
    return compressed("size=6x,max_drop=0")


def test_the_file_that_was_asked_for_is_written_and_measured(
    result: lissom.Result, tmp_path: Path
) -> None:
    params = sum(parameter.numel() for parameter in network().parameters())
    result.save(tmp_path)
    size = (tmp_path / "model.lsm").stat().st_size
    report = load_report(tmp_path)
    assert size <= 4 * params // 6
    assert report.compressed.size_bytes == size
    assert report.original.size_bytes == len(weights_content(network()))
    row = next(row for row in report.budget if row.quantity == "size")
    assert (row.asked, row.limit, row.measured, row.met) == ("6x", 4 * params // 6, size, True)
    assert row.smallest == 4
    assert pack_folder(tmp_path).packed.content == result.packed
    folder, file = (lissom.load(tmp_path / part, model=network()) for part in (".", "model.lsm"))
    assert weights_content(folder) == weights_content(file) == weights_content(result.model)


def test_the_report_accounts_for_every_byte(result: lissom.Result) -> None:
    found = result.report.storage
    size, params = len(result.packed), result.report.original.params
    assert found["original_bytes"] == 4 * params
    assert found["bytes"]["r4_file"] == size
    assert found["ratios"]["r4_file"] == pytest.approx(4 * params / size)
    assert sum(found["by_kind"].values()) == size
    assert found["by_kind"]["plain_weights"] == 0
    # Places cost something: run lengths more than the entropy of the levels with their zeros.
    counted = [found["bytes"][name] for name in ("r1_no_index", "r3_entropy_bound")]
    assert counted[0] < counted[1] < found["bytes"]["r2_relative_index"]
    others = found["baselines"]
    assert size < others["original_int8_onnx"] < others["original_lzma"] < 4 * params + 4_000
    assert others["levels_nncodec"] is None or others["levels_nncodec"] > 0
    for row in result.report.layers:
        assert (row.after.weight_bits is not None) == (row.kind in ("conv2d", "linear"))
    spent = sum(row.after.weight_bits * _nonzero(result, row.name) for row in _quantized(result))
    assert found["bytes"]["r1_no_index"] * 8 == spent


def _quantized(result: lissom.Result) -> list:
    return [row for row in result.report.layers if row.after.weight_bits is not None]


def _nonzero(result: lissom.Result, name: str) -> int:
    return int(result.model.get_submodule(name).weight.count_nonzero())


def test_what_the_test_set_loses_is_a_row_in_points_and_a_warning_where_it_is_too_much(
    result: lissom.Result,
) -> None:
    report = result.report
    lost = 100 * (report.original.accuracy - report.compressed.accuracy)
    row = next(row for row in report.budget if row.quantity == "max_drop")
    assert lost > 0
    assert row.measured == pytest.approx(lost)
    assert (row.limit, row.met, row.smallest) == (0, False, None)
    (warning,) = (one for one in report.warnings if one.startswith("max_drop"))
    assert f"max_drop=0: the test set lost {lost:.2f} points" in warning


def test_a_drop_within_the_limit_is_met_without_a_word() -> None:
    report = compressed("max_drop=100").report
    assert [(row.quantity, row.met) for row in report.budget] == [("max_drop", True)]
    assert report.warnings == ()


def test_settled_values_stay_as_they_are(result: lissom.Result) -> None:
    model = network()
    apply_values(model, stored_state(result.model))
    for name, value in network().state_dict().items():
        kept = torch.equal(model.state_dict()[name], value)
        assert kept == (value.ndim < 2), name
    assert result.report.evidence["recovery"][0]["epochs"] == ()


def test_a_file_above_the_budget_is_refused_before_the_long_measurements(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lissom.pipeline.job.report_of", lambda *_all: pytest.fail("measured"))
    with pytest.raises(BudgetError, match=r"has [\d,]+ bytes, above the budget of [\d,]+; this"):
        compressed("size=40x", Rounded(generous=100))


def test_counts_and_bytes_are_asked_of_the_stages_that_can() -> None:
    quick = lissom.HmcSettings(images=64, statistics_images=64, fractions=(0.5,), rounds=1)
    report = compressed("macs=0.7,size=8x", lissom.Hmc(quick), Rounded()).report
    assert all(row.met for row in report.budget)
    assert {row.quantity for row in report.budget} == {"macs", "size"}
    assert report.compressed.size_bytes * 8 <= 4 * report.original.params
    assert dataclasses.asdict(report.compressed.metric)["name"] == "accuracy"
