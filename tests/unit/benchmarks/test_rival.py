"""The rival of benchmarks/edp.py: is what we train what Torch-Pruning would train?"""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))
import bench
import edp_rows
import equal_time
import hmc_rows
import latency
import rival
import rival_pruning
import storage_rows

from lissom.artifacts import report_content
from lissom.errors import LissomError
from lissom.extension import StepState
from lissom.graph.capture import capture
from lissom.models.catalog import build_model
from lissom.train.schedule import build_optimizer
from lissom.train.settings import TrainSettings
from report_samples import REPORT

INPUTS = (torch.zeros(1, 1, 8, 8),)
STRONG = rival_pruning.Pressure(strength=0.05, weight_decay=0.01)


def network() -> nn.Module:
    torch.manual_seed(0)
    model = build_model("lissom:digits_resnet")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return model


def companion(model: nn.Module) -> rival_pruning.GroupNorm:
    most = {"macs": rival_pruning.cost_of(model, INPUTS).macs // 2}
    return rival_pruning.GroupNorm(model, INPUTS, STRONG, most, lambda _model: 0.5)


def optimizer(model: nn.Module, weight_decay: float) -> torch.optim.Optimizer:
    return build_optimizer(model, TrainSettings(learning_rate=0.05, weight_decay=weight_decay))


def state(step: int, made: torch.optim.Optimizer) -> StepState:
    return StepState(0.1, step, 10, made)


def loss(model: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    logits = model(torch.randn(8, 1, 8, 8, generator=generator))
    return nn.functional.cross_entropy(logits, torch.arange(8))


def largest_difference(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def steps_of_torch_pruning(model: nn.Module) -> None:
    pruner = rival_pruning.pruner_of(model, INPUTS, "sparse", reg=STRONG.strength)
    made = optimizer(model, weight_decay=0)
    for _ in range(3):
        made.zero_grad()
        loss(model).backward()
        pruner.regularize(model)
        made.step()


def steps_of_ours(model: nn.Module) -> None:
    party = companion(model)
    made = optimizer(model, STRONG.weight_decay)
    for step in range(3):
        total = loss(model) + party.penalty()
        made.zero_grad()
        total.backward()
        made.step()
        assert not party.after_step(state(step, made))


def test_sparse_training_takes_the_steps_of_torch_pruning() -> None:
    theirs, ours, plain = network(), network(), network()
    steps_of_torch_pruning(theirs)
    steps_of_ours(ours)
    made = optimizer(plain, 0.0)
    for _ in range(3):
        made.zero_grad()
        loss(plain).backward()
        made.step()
    assert largest_difference(theirs, ours) < 1e-5
    assert largest_difference(theirs, plain) > 1e-2


def test_after_the_cut_the_network_with_zeros_learns_what_the_smaller_one_does() -> None:
    ours = network()
    party = companion(ours)
    made = optimizer(ours.train(), STRONG.weight_decay)
    assert party.after_step(state(6, made))
    assert party.accuracies == (0.5, 0.5)
    small = copy.deepcopy(ours)
    rival_pruning.remove(small, rival_pruning.pruner_of(small, INPUTS, "magnitude").DG, party.dead)
    whole, left = (rival_pruning.cost_of(one, INPUTS).macs for one in (ours, small))
    assert 0.45 < left / whole <= 0.5
    its = optimizer(small.train(), STRONG.weight_decay)
    for step in range(7, 10):
        assert party.penalty() is None
        for model, one in ((ours, made), (small, its)):
            one.zero_grad()
            loss(model).backward()
            one.step()
        assert not party.after_step(state(step, made))
    assert loss(ours).item() == pytest.approx(loss(small).item(), rel=1e-5)
    rival_pruning.remove(ours, party.pruner.DG, party.dead)
    assert largest_difference(ours, small) < 1e-5


def test_a_resumed_cut_is_the_same_cut() -> None:
    first, second = network(), network()
    party, heir = companion(first), companion(second)
    party.after_step(state(6, optimizer(first, 0.0)))
    heir.load_state_dict(party.state_dict())
    heir.after_average()
    assert heir.dead == party.dead
    assert heir.accuracies == party.accuracies
    assert largest_difference(first, second) == 0


def test_channels_are_numbered_as_before_all_pruning() -> None:
    history = [["conv", True, [1, 3]], ["other", True, [0]], ["conv", True, [1, 2]]]
    assert rival_pruning.original_numbers(history) == {"conv": [1, 2, 3, 4], "other": [0]}
    again = [*history, ["conv", True, [0, 1]]]
    assert rival_pruning.original_numbers(again)["conv"] == [0, 1, 2, 3, 4, 5]


def test_the_counter_is_that_of_capture() -> None:
    model = network()
    found = rival_pruning.cost_of(model, INPUTS)
    expected = capture(model, INPUTS).cost
    assert (found.macs, found.params) == (expected.macs, expected.params)


def test_the_matched_pressure_keeps_the_published_product() -> None:
    settings = TrainSettings(epochs=10, learning_rate=0.01, warmup_steps=0)
    # 60 of 100 steps of half a cosine: (0.6 + sin(0.6 pi) / pi) / 2 of the peak.
    assert rival.summed_rates(settings, 10) == pytest.approx(100 * 0.01 * 0.4514, rel=0.02)


@pytest.mark.parametrize(
    "of",
    [edp_rows, hmc_rows, storage_rows, equal_time],
    ids=["edp", "hmc", "storage", "equal_time"],
)
def test_every_row_has_a_key_and_a_folder_of_its_own(of: ModuleType) -> None:
    names = ("resnet20", "resnet56", *(["vgg16_bn"] if of is storage_rows else []))
    rows = [row for name in names for row in of.rows_of(name)]
    assert {row.group for row in rows} == set(of.GROUPS)
    assert len({row.name(0) for row in rows}) == len(rows)
    assert len({tuple(row.key(0)) for row in rows}) == len(rows)


def test_a_limit_on_latency_is_what_the_network_beside_it_takes(tmp_path: Path) -> None:
    by_macs, by_latency = list(equal_time.rows_of("resnet20"))[:2]
    folder = tmp_path / by_macs.name(0)
    with pytest.raises(LissomError, match=folder.name):
        equal_time.at_equal_time(by_latency, tmp_path, 0)
    folder.mkdir()

    def measured(ratio: float) -> None:
        side = replace(REPORT.compressed, latency={"ratio": ratio})
        (folder / "report.json").write_bytes(report_content(replace(REPORT, compressed=side)))

    measured(1.012)
    with pytest.raises(LissomError, match=r"takes 1\.012 of the original's time: nothing to"):
        equal_time.at_equal_time(by_latency, tmp_path, 0)
    measured(0.61249)
    found = equal_time.at_equal_time(by_latency, tmp_path, 0)
    assert (found.group, found.budget) == ("latency", "latency=0.612")
    assert by_latency.key(0)[3] == by_macs.budget


def test_equal_time_is_the_time_of_the_network_held_to_macs() -> None:
    asked = (latency.EQUAL_TIME, "lissom:resnet8", "macs=0.6")
    other: dict[str, object] = {"key": ["allowed", *asked[1:]], "ratio": 0.1}
    key = ["never-slower", *asked[1:]]
    assert latency.budget_of("allowed", *asked[1:], []) == "macs=0.6"
    for rows in ([other], [{"key": key, "refused": "busy"}]):
        with pytest.raises(LissomError, match=r"no network of never-slower at macs=0\.6; run it"):
            latency.budget_of(*asked, rows)
    with pytest.raises(LissomError, match=r"takes 0\.990 of its time: nothing to compare"):
        latency.budget_of(*asked, [{"key": key, "ratio": 0.99}])
    rows = [other, {"key": key, "ratio": 0.64021}]
    assert latency.budget_of(*asked, rows) == "latency=0.640"


def test_rows_that_do_not_exist_are_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["edp.py", "--data", "digits", "--rows", "scratch", "--epochs", "999"]
    monkeypatch.setattr(sys, "argv", [*asked, "--results", str(tmp_path / "rows.json")])
    given = bench.arguments("", "edp", ("resnet20",), edp_rows.GROUPS)
    with pytest.raises(SystemExit, match=r"no row is of these .* there are .*scratch edp \d+"):
        bench.run_rows(given, edp_rows.rows_of, lambda _given, _row: None)


def test_taylor_ranks_by_the_gradients_that_it_is_given() -> None:
    """Channels whose weights have no gradient go first, whatever their size."""
    model = network()
    gradients = {name: torch.ones_like(p) for name, p in model.named_parameters()}
    for name, gradient in gradients.items():
        if name.endswith((".conv1.weight", ".bn1.weight", ".bn1.bias")):
            gradient[1] = 0
        if name.endswith(".conv2.weight"):
            gradient[:, 1] = 0
    most = {"macs": rival_pruning.cost_of(model, INPUTS).macs - 1}
    dead = rival_pruning.choose(model, INPUTS, most, "taylor", gradients)
    assert dead
    assert all(channels == [1] for channels in dead.values())
    by_size = rival_pruning.choose(model, INPUTS, most, "magnitude", gradients)
    assert by_size != dead


def test_every_rival_of_the_rows_is_known() -> None:
    assert set(rival.VARIANTS) == {*edp_rows.RIVALS, *hmc_rows.RIVALS}
