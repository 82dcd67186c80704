from __future__ import annotations

import pytest
import torch
from nets import Net, conv
from torch import nn

from lissom.graph.capture import capture
from lissom.graph.cut import keep_channels

X = torch.zeros(1, 3, 8, 8)


def concat():
    return Net(
        lambda s, x: s.fc(s.c(torch.cat([s.a(x), s.b(x)], 1)).mean((2, 3))),
        a=conv(3, 4),
        b=conv(3, 6),
        c=conv(10, 4, groups=2),
        fc=nn.Linear(4, 2),
    )


def plain():
    net = concat()
    net.c = conv(10, 5)
    net.fc = nn.Linear(5, 2)
    return net


def test_indices_of_later_groups_follow_earlier_cuts():
    net = plain()
    groups = {g.name: g for g in capture(net, (X,)).groups}
    wanted = net.c.weight[:, [1, 3, 4, 9]].clone()
    first, second = keep_channels([(groups["a"], [1, 3]), (groups["b"], [0, 5])])
    assert (first.group, second.group) == ("a", "b")
    sizes = {axes: cut.size for cut in second.cuts for axes in cut.axes}
    assert sizes["c.weight", 1] == 8
    for decision in (first, second):
        decision.apply(net)
    assert torch.equal(net.c.weight, wanted)


def test_a_group_that_keeps_everything_needs_no_cut():
    group = capture(plain(), (X,)).groups[0]
    assert keep_channels([(group, range(4))])[0].cuts == ()


def test_convolution_groups_must_stay_equal():
    groups = {g.name: g for g in capture(concat(), (X,)).groups}
    assert groups["a"].channels == 10  # both producers, joined by the balance
    with pytest.raises(ValueError, match="equally many channels must be kept in each of 2 parts"):
        keep_channels([(groups["a"], [0, 1, 2])])


@pytest.mark.parametrize(
    ("name", "kept", "message"),
    [
        ("fc", [0], "fc can't be cut: the network returns"),
        ("a", [], "at least one of 0 .. 3 to keep"),
        ("a", [4], "at least one of 0 .. 3 to keep"),
    ],
)
def test_wrong_choices_are_refused(name, kept, message):
    groups = {g.name: g for g in capture(plain(), (X,)).groups}
    with pytest.raises(ValueError, match=message):
        keep_channels([(groups[name], kept)])


def test_a_group_comes_once():
    group = capture(plain(), (X,)).groups[0]
    with pytest.raises(ValueError, match="given twice"):
        keep_channels([(group, [0]), (group, [1])])
