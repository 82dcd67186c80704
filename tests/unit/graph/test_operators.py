from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from nets import Fourier, Gate, LiteralShortcut, LiteralView, Net, Residual, conv
from torch import nn

from lissom.graph.capture import capture
from lissom.graph.cut import keep_channels
from lissom.graph.trial_bench import close, ignore_channels

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Case:
    """A network and the groups that it must have: name -> (channels, exact)."""

    name: str
    build: Callable[[], nn.Module]
    groups: dict[str, tuple[int, bool]]
    balanced: tuple[str, ...] = ()


def head(x: torch.Tensor) -> torch.Tensor:
    return x.mean((2, 3))


def fc(n: int) -> nn.Linear:
    return nn.Linear(n, 4)


def _shuffle(x: torch.Tensor, groups: int) -> torch.Tensor:
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


def _tied() -> nn.Module:
    net = Net(
        lambda s, x: s.fc(head(s.b(F.relu(s.a(s.stem(x)))))),
        stem=conv(3, 6),
        a=conv(6, 6),
        b=conv(6, 6),
        fc=fc(6),
    )
    net.b.weight = net.a.weight
    return net


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = conv(3, 6), fc(6)
        self.scale = nn.Parameter(torch.full((6, 1, 1), 1e-6))

    def forward(self, x):
        return self.fc(head(self.stem(x) * self.scale))


CASES = [
    Case("residual", Residual, {"stem": (8, True), "a": (6, True)}),
    Case("gate", Gate, {"stem": (8, True), "down": (2, True)}),
    Case(
        "concat",
        lambda: Net(
            lambda s, x: s.fc(head(s.c(torch.cat([s.a(x), s.b(x)], 1)))),
            a=conv(3, 4),
            b=conv(3, 6),
            c=conv(10, 5),
            fc=fc(5),
        ),
        {"a": (4, True), "b": (6, True), "c": (5, True)},
    ),
    Case(
        "concat of one tensor twice",
        lambda: Net(
            lambda s, x: s.fc(head(s.c(torch.cat([y := s.a(x), y], 1)))),
            a=conv(3, 4),
            c=conv(8, 5),
            fc=fc(5),
        ),
        {"a": (4, True), "c": (5, True)},
    ),
    Case(
        "chunk",
        lambda: Net(
            lambda s, x: (lambda p: s.fc(head(s.b(p[0]) + s.c(p[1]))))(s.a(x).chunk(2, 1)),
            a=conv(3, 8),
            b=conv(4, 6),
            c=conv(4, 6),
            fc=fc(6),
        ),
        {"a": (8, True), "b": (6, True)},
        balanced=("a",),
    ),
    Case(
        "halves by slices of x.shape",
        lambda: Net(
            lambda s, x: (
                lambda y: s.fc(head(s.b(y[:, : y.shape[1] // 2]) * s.c(y[:, y.shape[1] // 2 :])))
            )(s.a(x)),
            a=conv(3, 8),
            b=conv(4, 6),
            c=conv(4, 6),
            fc=fc(6),
        ),
        {"a": (8, True), "b": (6, True)},
        balanced=("a",),
    ),
    Case(
        "depthwise",
        lambda: Net(
            lambda s, x: s.fc(head(s.dw(s.a(x)))), a=conv(3, 6), dw=conv(6, 6, groups=6), fc=fc(6)
        ),
        {"a": (6, True)},
    ),
    Case(
        "depthwise with multiplier",
        lambda: Net(
            lambda s, x: s.fc(head(s.dw(s.a(x)))),
            a=conv(3, 6),
            dw=conv(6, 12, groups=6),
            fc=fc(12),
        ),
        {"a": (6, True)},
    ),
    Case(
        "grouped",
        lambda: Net(
            lambda s, x: s.fc(head(s.g(s.a(x)))), a=conv(3, 8), g=conv(8, 12, groups=2), fc=fc(12)
        ),
        {"a": (8, True), "g": (12, True)},
        balanced=("a", "g"),
    ),
    Case(
        "shuffle by views",
        lambda: Net(
            lambda s, x: s.fc(head(s.b(_shuffle(s.a(x), 2)))), a=conv(3, 8), b=conv(8, 4), fc=fc(4)
        ),
        {"a": (4, True), "b": (4, True)},
    ),
    Case(
        "native shuffle",
        lambda: Net(
            lambda s, x: s.fc(head(s.b(F.channel_shuffle(s.a(x), 2)))),
            a=conv(3, 8),
            b=conv(8, 4),
            fc=fc(4),
        ),
        {"a": (4, True), "b": (4, True)},
    ),
    Case(
        "pixel shuffle",
        lambda: Net(
            lambda s, x: s.fc(head(s.b(F.pixel_shuffle(s.a(x), 2)))),
            a=conv(3, 16),
            b=conv(4, 5),
            fc=fc(5),
        ),
        {"a": (4, True), "b": (5, True)},
    ),
    Case(
        "pixel unshuffle",
        lambda: Net(
            lambda s, x: s.fc(head(s.b(F.pixel_unshuffle(s.a(x), 2)))),
            a=conv(3, 4),
            b=conv(16, 5),
            fc=fc(5),
        ),
        {"a": (4, True), "b": (5, True)},
    ),
    Case(
        "flatten",
        lambda: Net(lambda s, x: s.fc(s.a(x).flatten(1)), a=conv(3, 4), fc=nn.Linear(256, 4)),
        {"a": (4, True)},
    ),
    Case(
        "transposed",
        lambda: Net(
            lambda s, x: s.fc(head(s.t(s.a(x)))),
            a=conv(3, 4),
            t=nn.ConvTranspose2d(4, 6, 2, 2),
            fc=fc(6),
        ),
        {"a": (4, True), "t": (6, True)},
    ),
    Case(
        "prelu, batch norm, dropout, pool, resize, pad",
        lambda: Net(
            lambda s, x: s.fc(head(F.pad(s.up(s.pool(s.drop(s.act(s.norm(s.a(x)))))), (1, 1)))),
            a=conv(3, 6),
            norm=nn.BatchNorm2d(6, affine=False),
            act=nn.PReLU(6),
            drop=nn.Dropout2d(),
            pool=nn.MaxPool2d(2),
            up=nn.Upsample(scale_factor=2, mode="bilinear"),
            fc=fc(6),
        ),
        {"a": (6, True)},
    ),
    Case(
        "group norm",
        lambda: Net(
            lambda s, x: s.fc(head(s.norm(s.a(x)))),
            a=conv(3, 6),
            norm=nn.GroupNorm(2, 6),
            fc=fc(6),
        ),
        {"a": (6, False)},
        balanced=("a",),
    ),
    Case(
        "layer norm after a permutation",
        lambda: Net(
            lambda s, x: s.fc(s.b(s.norm(s.a(x).permute(0, 2, 3, 1))).mean((1, 2))),
            a=conv(3, 6),
            norm=nn.LayerNorm(6),
            b=nn.Linear(6, 5),
            fc=fc(5),
        ),
        {"a": (6, False), "b": (5, True)},
    ),
    Case("layer scale", Scaled, {"stem": (6, True)}),
    Case("tied weights", _tied, {"stem": (6, True)}),
    Case(
        "a module called twice",
        lambda: Net(
            lambda s, x: s.fc(head(s.a(F.relu(s.a(s.stem(x)))))),
            stem=conv(3, 6),
            a=conv(6, 6),
            fc=fc(6),
        ),
        {"stem": (6, True)},
    ),
    Case(
        "channel mean and softmax",
        lambda: Net(
            lambda s, x: (lambda y: s.fc(head(y.softmax(1) - y.mean(1, keepdim=True))))(s.a(x)),
            a=conv(3, 6),
            fc=fc(6),
        ),
        {"a": (6, False)},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_groups_are_found_and_can_be_cut(case):
    torch.manual_seed(1)
    model = case.build().eval()
    graph = capture(model, (X,))
    free = {g.name: g for g in graph.groups if g.frozen_because is None}
    assert {name: (g.channels, g.exact) for name, g in free.items()} == case.groups
    assert tuple(name for name, g in free.items() if g.balance) == case.balanced
    choices = [(g, _half(g)) for g in free.values()]
    cut, whole = copy.deepcopy(model), copy.deepcopy(model)
    for decision in keep_channels(choices):
        decision.apply(cut)
    for group, kept in choices:
        ignore_channels(whole, group, kept)
    with torch.no_grad():
        assert cut(X).shape == model(X).shape
        if all(g.exact for g in free.values()):
            assert close(cut(X), whole(X))
    before = sum(p.numel() for p in model.parameters())
    assert sum(p.numel() for p in cut.parameters()) < before


def _half(group):
    """Keep every other channel of each part."""
    if not group.balance:
        return list(range(0, group.channels, 2)) if group.channels > 1 else [0]
    row = group.balance[0]
    kept = []
    for part in sorted(set(row)):
        own = [c for c, p in enumerate(row) if p == part]
        kept += own[::2]
    return sorted(kept)


@dataclass(frozen=True)
class Frozen:
    name: str
    build: Callable[[], nn.Module]
    group: str
    reason: str


FROZEN = [
    Frozen("output", Residual, "head", "the network returns these channels"),
    Frozen("literal view", LiteralView, "stem", r"write x\.flatten\(1\)"),
    Frozen("literal option A", LiteralShortcut, "stem", "does not run after a cut"),
    Frozen(
        "unknown operator",
        Fourier,
        "stem",
        r"fft_fft2: an operator that lissom does not know \(.*nets\.py:\d+: x = torch\.fft",
    ),
    Frozen(
        "a literal slice",
        lambda: Net(lambda s, x: s.fc(head(s.a(x)[:, :4])), a=conv(3, 6), fc=fc(4)),
        "a",
        "takes channels 0 to 4 of 6",
    ),
    Frozen(
        "a literal split",
        lambda: Net(lambda s, x: s.fc(head(sum(s.a(x).split(3, 1)))), a=conv(3, 6), fc=fc(3)),
        "a",
        "does not run after a cut|changes",
    ),
    Frozen(
        "sum with the input",
        lambda: Net(lambda s, x: s.fc(head(s.a(x) + x)), a=conv(3, 3), fc=fc(3)),
        "a",
        "joined with the network's input",
    ),
    Frozen(
        "one channel per convolution group",
        lambda: Net(
            lambda s, x: s.fc(head(s.g(s.a(x)))), a=conv(3, 4), g=conv(4, 2, groups=2), fc=fc(2)
        ),
        "g",
        "equally large",
    ),
]


@pytest.mark.parametrize("case", FROZEN, ids=lambda case: case.name)
def test_what_does_not_work_is_frozen_and_explained(case):
    torch.manual_seed(1)
    graph = capture(case.build(), (X,))
    group = next(g for g in graph.groups if g.name == case.group)
    assert group.frozen_because is not None
    assert re.search(case.reason, group.frozen_because), group.frozen_because
    refusal = next(r for r in graph.refusals if (r.layer, r.action) == (case.group, "prune"))
    assert refusal.reason
