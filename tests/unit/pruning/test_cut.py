from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn

from lissom.errors import UnsupportedLayer
from lissom.graph.layers import ChannelGroup, Member, Role
from lissom.plan.build import build
from lissom.plan.plan import Plan
from lissom.pruning.cut import (
    Criterion,
    admissible_counts,
    choose_kept,
    group_importance,
    keep_channels,
)

ALL = tuple(range(8))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 4, 1)
    )
    nn.init.uniform_(layers[1].weight, 0.5, 1.5)
    return layers.eval()


GROUP = ChannelGroup(
    "0",
    8,
    (
        Member("0.weight", 0, Role.OUTPUT, ALL),
        Member("0.bias", 0, Role.OUTPUT, ALL),
        Member("1.weight", 0, Role.VECTOR, ALL),
        Member("1.bias", 0, Role.VECTOR, ALL),
        Member("1.running_mean", 0, Role.VECTOR, ALL),
        Member("1.running_var", 0, Role.VECTOR, ALL),
        Member("3.weight", 1, Role.INPUT, ALL),
    ),
    ("0",),
    ("3",),
)


def free(channels: int, *balance: tuple[int, ...]) -> ChannelGroup:
    return ChannelGroup("g", channels, (), (), (), balance)


def test_norms_of_the_producers() -> None:
    model = network()
    filters = model[0].weight.detach().flatten(1).double()
    for criterion, norms in (("l1", filters.abs().sum(1)), ("l2", filters.norm(dim=1))):
        scores = group_importance(model, GROUP, criterion)
        torch.testing.assert_close(scores, norms / norms.mean())


def test_group_l2_reads_the_consumers_too() -> None:
    model = network()
    with torch.no_grad():
        model[3].weight[:, 5] = 100.0
    assert int(group_importance(model, GROUP, Criterion.GROUP_L2).argmax()) == 5
    assert not torch.equal(
        group_importance(model, GROUP, "group_l2"), group_importance(model, GROUP, "l2")
    )


def test_bn_scale_and_fpgm() -> None:
    model = network()
    scales = model[1].weight.detach().double()
    torch.testing.assert_close(group_importance(model, GROUP, "bn_scale"), scales / scales.mean())
    with torch.no_grad():
        model[0].weight[2] = model[0].weight[6]
        model[0].weight[3] = model[0].weight[6]
    assert set(group_importance(model, GROUP, "fpgm").argsort()[:3].tolist()) == {2, 3, 6}


def test_taylor_is_the_loss_when_the_consumers_lose_the_channel() -> None:
    model = network().double()
    inputs = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    model[:4](inputs).sum().backward()  # linear in the consumer's weight
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    scores = group_importance(model, GROUP, "taylor", gradients)
    with torch.no_grad():
        before = model[:4](inputs).sum()
        model[3].weight[:, 4] = 0
        change = float((model[:4](inputs).sum() - before).abs())
    assert float(scores[4]) == pytest.approx(change)
    with pytest.raises(ValueError, match=r"0: the criterion taylor needs the gradients .*\(3\)"):
        group_importance(model, GROUP, "taylor")


def test_reconstruction_prefers_what_cannot_be_replaced() -> None:
    model = network()
    samples = torch.randn(500, 8)
    samples[:, 1] = samples[:, 0] + 0.01 * torch.randn(500)  # a twin: either may go, not both
    covariance = samples.T @ samples / 500
    scores = group_importance(model, GROUP, covariances={"3": covariance})
    order = scores.argsort().tolist()
    assert order[0] in (0, 1)
    assert order[1] not in (0, 1)
    plain = group_importance(model, GROUP)
    energy = model[3].weight.detach().square().sum((0, 2, 3))
    assert plain.argsort().tolist() == energy.argsort().tolist()


def test_grouped_consumers_and_flattened_ones() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1, groups=2), nn.Flatten(), nn.Linear(16, 2)
    )
    group = ChannelGroup(
        "0",
        4,
        (
            Member("0.weight", 0, Role.OUTPUT, (0, 1, 2, 3)),
            Member("1.weight", 1, Role.INPUT, (0, 1, 2, 3), groups=2),
            Member("3.weight", 1, Role.INPUT, tuple(i // 4 for i in range(16))),
        ),
        ("0",),
        ("1", "3"),
    )
    with torch.no_grad():
        model[3].weight.zero_()
        model[1].weight[0:3, 1] = 7.0  # input channel 1
        model[1].weight[3:6, 0] = 9.0  # input channel 2: the second group's first column
    assert group_importance(model, group, "group_l2").argsort(descending=True).tolist()[0] == 2
    assert set(group_importance(model, group).argsort(descending=True).tolist()[:2]) == {1, 2}
    with torch.no_grad():
        model[3].weight[:, 12:] = 50.0  # channel 3
    samples = torch.eye(16)
    scores = group_importance(model, group, covariances={"3": samples})
    assert int(scores.argmax()) == 3


def test_a_criterion_without_anything_to_read() -> None:
    bare = replace(GROUP, members=GROUP.members[1:2])
    for criterion in ("bn_scale", "l2", "reconstruction"):
        with pytest.raises(UnsupportedLayer, match=f"0: the criterion {criterion} finds nothing"):
            group_importance(network(), bare, criterion)
    with pytest.raises(ValueError, match="'largest' is not a valid Criterion"):
        group_importance(network(), GROUP, "largest")


@pytest.mark.parametrize(
    ("group", "round_to", "counts"),
    [
        (free(32), "auto", (8, 16, 24, 32)),
        (free(100), "auto", (16, 32, 48, 64, 80, 96, 100)),
        (free(5), 1, (1, 2, 3, 4, 5)),
        (free(6), 8, (6,)),
        (free(24, tuple(i // 8 for i in range(24))), 8, (9, 18, 24)),
        (free(24, tuple(i // 8 for i in range(24))), 1, (3, 6, 9, 12, 15, 18, 21, 24)),
        (free(8, (0, 0, 1, 1, -1, -1, -1, -1)), 1, (2, 3, 4, 5, 6, 7, 8)),
        (free(16, tuple(i // 8 for i in range(16)), tuple(i % 4 for i in range(16))), 1, (8, 16)),
    ],
)
def test_admissible_counts_are_aligned_and_can_be_balanced(group, round_to, counts) -> None:
    assert admissible_counts(group, round_to) == counts
    for count in counts:
        kept = choose_kept(torch.rand(group.channels), count, group)
        assert len(kept) == len(set(kept)) == count
        for row in group.balance:
            parts = Counter(row[channel] for channel in kept if row[channel] >= 0)
            assert len(set(parts.values())) == 1
            assert len(parts) == len(set(row) - {-1})


def test_the_best_channels_stay() -> None:
    scores = torch.tensor([9.0, 1.0, 5.0, 5.0, 7.0, 0.0])
    assert choose_kept(scores, 3, free(6)) == (0, 2, 4)  # of equal ones the first
    assert choose_kept(scores, 2, free(6, (0, 0, 0, 1, 1, 1))) == (0, 4)
    assert choose_kept(scores, 4, free(6, (0, 0, 1, 1, -1, -1))) == (0, 2, 4, 5)


@pytest.mark.parametrize(
    ("keep", "group", "message"),
    [
        (0, free(4), r"g: 0 of 4 channels can't be kept"),
        (5, free(4), r"5 of 4 channels"),
        (3, free(4, (0, 0, 1, 1)), r"can't be kept in balance; allowed are \[2, 4\]"),
        (2, free(5), r"has 5 channels, got scores of shape \(4,\)"),
    ],
)
def test_counts_that_cannot_be(keep, group, message) -> None:
    with pytest.raises(ValueError, match=message):
        choose_kept(torch.rand(4), keep, group)


def test_from_scores_to_a_smaller_network() -> None:
    model = network()
    kept = choose_kept(group_importance(model, GROUP), 5, GROUP)
    new = build(model, Plan(keep_channels([(GROUP, kept)])))
    assert new(torch.randn(1, 3, 7, 7)).shape == (1, 4, 5, 5)
    assert torch.equal(new[3].weight, model[3].weight[:, list(kept)])
