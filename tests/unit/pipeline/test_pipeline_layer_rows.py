from __future__ import annotations

import torch
from torch import nn

from lissom.extension import Proposal
from lissom.graph.capture import capture
from lissom.pipeline.layer_rows import layer_rows
from lissom.plan.build import build
from lissom.plan.cost import Cost
from lissom.plan.decision import Decision
from lissom.plan.drop_residual import DropResidual
from lissom.plan.low_rank import ChannelSVD, Tucker2
from lissom.plan.merge import Merge
from lissom.plan.plan import Plan
from lissom.plan.quantize import Quantize
from lissom.plan.separable import FilterCP, SpatialSVD, TensorTrain
from lissom.plan.sparse_plus import SparsePlusSVD
from lissom.report.figures import channels
from lissom.report.report import LayerRow


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.Conv2d(16, 8, 1),
        nn.Flatten(),
        nn.Linear(8 * 16, 4),
    ).eval()


def rows(*stages: tuple[Decision, ...], model: nn.Module | None = None) -> dict[str, LayerRow]:
    """Compress a small network; only its structure counts."""
    model = network() if model is None else model
    inputs = (torch.zeros(1, 3, 4, 4),)
    new = model
    for decisions in stages:
        new = build(new, Plan(decisions))
    found = layer_rows(
        capture(model, inputs),
        capture(new, inputs),
        [Proposal(Plan(decisions), {}, Cost()) for decisions in stages],
        {name[:-7]: p.numel() for name, p in new.named_parameters() if name.endswith(".weight")},
    )
    return {row.name: row for row in found}


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1))
        self.head = nn.Linear(48, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen: torch.Tensor = self.head((x + self.branch(x)).flatten(1))
        return seen


def test_layers_of_a_dropped_branch_say_so_even_if_they_were_decomposed_before() -> None:
    found = rows(
        (ChannelSVD("branch.2", 1),),
        (DropResidual(("branch.0", "branch.1", "branch.2.first"), "branch.2.last"),),
        model=Residual().eval(),
    )
    for name in ("branch.0", "branch.2"):
        assert found[name].decision == "dropped with its residual branch"
        assert found[name].after.cost == Cost()
        assert channels(found[name].before, found[name].after) == "3→0"
    assert found["head"].decision == ""


def test_a_layer_whose_weight_another_reads_has_costs_alone() -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True)

    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.attention = nn.Conv2d(3, 8, 3), attention

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = self.stem(x).flatten(2).transpose(1, 2)
            seen: torch.Tensor = self.attention(tokens, tokens, tokens)[0]
            return seen

    row = rows((), model=Attending().eval())["attention.out_proj"]
    assert row.before.cost.macs > 0
    assert row.before.in_channels is None
    assert row.before == row.after


def test_a_merged_layer_is_one_layer_again_and_says_from_what() -> None:
    row = rows((ChannelSVD("0", 14), Merge("0")))["0"]
    assert row.decision == "channel_svd 14 of 16, merged into one layer"
    assert (row.after.rank_in, row.after.rank_out) == (None, None)
    assert row.after == row.before


def test_the_full_rank_is_the_smaller_side_of_the_matrix() -> None:
    decisions = (ChannelSVD("1", 3), Merge("1"), ChannelSVD("3", 2), Merge("3"))
    of_layers = rows(decisions)
    assert of_layers["1"].decision == "channel_svd 3 of 8, merged into one layer"
    assert of_layers["3"].decision == "channel_svd 2 of 4, merged into one layer"


def test_a_merge_in_a_later_stage_counts() -> None:
    row = rows((Tucker2("0", 2, 5),), (Merge("0"),))["0"]
    assert row.decision == "tucker2 2/5, merged into one layer"


def test_a_layer_decomposed_again_is_no_merged_one() -> None:
    row = rows((ChannelSVD("0", 14), Merge("0")), (ChannelSVD("0", 5),))["0"]
    assert row.decision == "channel_svd 5"
    assert row.after.rank_out == 5


def test_the_parts_of_an_earlier_run_say_that_they_are_one_layer_now() -> None:
    model = build(network(), Plan((ChannelSVD("0", 14),)))
    parts = rows((Merge("0"),), model=model)
    assert parts["0.first"].decision == parts["0.last"].decision == "merged into one layer"
    costs = [row.after.cost.params for row in parts.values()]
    assert costs[:2] == [3 * 9 * 16 + 16, 0]
    assert sum(costs) == sum(p.numel() for p in network().parameters())


def test_bits_and_density_of_a_quantized_layer() -> None:
    found = rows((Quantize("0", 3, 108, channel_scales=False),))
    row = found["0"]
    assert row.decision == "quantized to 3 bits"
    assert (row.after.weight_bits, row.after.density) == (3, 0.25)  # 108 of 16 * 27
    # Three bits for each level that is not zero, 32 for each of the 16 biases.
    assert row.after.cost.bits == 3 * 108 + 32 * 16
    assert row.after.cost.params == row.before.cost.params
    assert (row.before.weight_bits, row.before.density) == (None, None)
    assert (found["1"].after.weight_bits, found["1"].after.density) == (None, None)


def test_factors_are_quantized_each_and_shown_together() -> None:
    first, last = 14 * 27, 16 * 14
    decisions = (
        ChannelSVD("0", 14),
        Quantize("0.first", 2, 100, channel_scales=False),
        Quantize("0.last", 5, 50, channel_scales=False),
        Quantize("0.last", 4, 20, channel_scales=True),
    )
    row = rows(decisions)["0"]
    assert row.decision == "channel_svd 14, quantized to 2/4 bits"
    assert (row.after.weight_bits, row.after.density) == (4, 120 / (first + last))
    assert row.after.cost.bits == 2 * 100 + 4 * 20 + 32 * 16


def test_every_family_says_its_ranks() -> None:
    shown = {
        "spatial_svd 5": (SpatialSVD("0", 5), (None, 5)),
        "filter_cp 2": (FilterCP("0", 2), (None, 2)),
        "tensor_train 2/4/3": (TensorTrain("0", 2, 4, 3), (2, 3)),
        "sparse_plus_svd 1/4": (SparsePlusSVD("0", 1, 4), (None, 4)),
    }
    for words, (decision, ranks) in shown.items():
        row = rows((decision,))["0"]
        assert row.decision == words
        assert (row.after.rank_in, row.after.rank_out) == ranks
        channels = row.after.in_channels, row.after.out_channels
        assert channels == (row.before.in_channels, row.before.out_channels)


def test_groups_are_what_all_steps_together_did() -> None:
    model = network()
    inputs = (torch.zeros(1, 3, 4, 4),)
    plan = Plan((ChannelSVD("0", 2),))
    labels = [
        {"0": "prune", "1": "keep", "2": "", "3": "keep"},
        {"0.first": "keep", "0.last": "decompose", "1": "drop", "3": "keep"},
        {"1": "prune"},
    ]
    graph = capture(model, inputs)
    weights = {"0.first": 54, "0.last": 32, "1": 128, "3": 512}
    found = layer_rows(
        graph,
        capture(build(model, plan), inputs),
        [Proposal(plan, {}, Cost(), labels=one) for one in labels],
        weights,
    )
    assert {row.name: row.group for row in found if row.before.cost.macs} == {
        "0": "both",
        "1": "drop",
        "3": "keep",
    }
    (first, *_) = layer_rows(graph, graph, [Proposal(Plan(()), {}, Cost(), {"0": "own"})], weights)
    assert first.group == "own"
