from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from nets import LiteralView, Residual, conv
from torch import nn

from lissom.graph.capture import capture
from lissom.graph.groups import Found
from lissom.graph.trial import try_cuts
from lissom.graph.trial_bench import Bench, Trial
from lissom.graph.trial_choice import trial_choice

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def residual_group():
    torch.manual_seed(0)
    model = Residual().eval()
    return model, capture(model, (X,)).groups[0]


def wrong_consumer(group):
    """Shift by one which input channels of ``a`` belong to which channel."""
    members = tuple(
        replace(m, labels=m.labels[1:] + m.labels[:1]) if m.tensor == "a.weight" else m
        for m in group.members
    )
    return replace(group, members=members)


def test_a_wrong_index_is_seen_in_the_values():
    model, group = residual_group()
    bench = Bench(model, (X,))
    kept = tuple(range(1, 8))
    assert bench.agrees([Trial(group, kept)]) is None
    wrong = bench.agrees([Trial(wrong_consumer(group), kept)])
    assert wrong is not None
    assert "picks channels by position" in wrong.cause.reason


def test_a_missing_member_is_seen_when_the_network_runs():
    model, group = residual_group()
    bench = Bench(model, (X,))
    short = replace(group, members=tuple(m for m in group.members if m.tensor != "a.weight"))
    failure = bench.runs([Trial(short, tuple(range(1, 8)))])
    assert failure is not None
    assert failure.module == "a"
    assert "expected input" in failure.cause.reason


def test_only_the_group_that_fails_is_frozen():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Sequential(*(conv(3 if k == 0 else 4, 4) for k in range(6)))
            self.bad = LiteralView()
            self.bad.stem = conv(4, 4)

        def forward(self, x):
            return self.bad(self.first(x))

    graph = capture(Mixed(), (X,))
    frozen = {g.name: g.frozen_because for g in graph.groups if g.frozen_because}
    assert list(frozen) == ["bad.stem", "bad.head"]
    assert "nets.py" in frozen["bad.stem"]
    assert "x.flatten(1)" in frozen["bad.stem"]


def test_train_mode_is_tried_too():
    class Trains(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.head = conv(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            x = self.stem(x)
            if self.training:
                x = x.view(-1, 4, 8, 8)
            return self.head(x.mean((2, 3)))

    group = capture(Trains(), (X,)).groups[0]
    assert "in train mode the network does not run" in group.frozen_because


def test_zeros_do_not_hide_a_wrong_cut():
    """The branch's scale is zero, so that the output alone would show nothing."""

    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.branch, self.head = conv(3, 4), conv(4, 4), nn.Linear(4, 2)
            self.scale = nn.Parameter(torch.zeros(4, 1, 1))

        def forward(self, x):
            x = self.stem(x)
            return self.head((x + self.scale * self.branch(F.relu(x))).mean((2, 3)))

    torch.manual_seed(0)
    model = Hidden().eval()
    group = capture(model, (X,)).groups[0]
    wrong = tuple(
        replace(m, labels=m.labels[::-1]) if m.tensor == "scale" else m for m in group.members
    )
    found = [Found(replace(group, members=wrong), None)]
    assert try_cuts(model, (X,), found)[0].cause is not None
    assert try_cuts(model, (X,), [Found(group, None)])[0].cause is None


def test_the_choice_honours_the_balance_and_shows_every_kind():
    net = nn.Sequential(conv(3, 8), conv(8, 12, groups=2), conv(12, 2))
    groups = capture(net, (X,)).groups
    for number, group in enumerate(groups[:2]):
        kept = trial_choice(group, number)
        counts = [sum(group.balance[0][c] == part for c in kept) for part in (0, 1)]
        assert counts[0] == counts[1] < group.channels // 2
