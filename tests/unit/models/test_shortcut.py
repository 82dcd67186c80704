import copy

import pytest
import torch

from lissom.models.shortcut import ZeroPadShortcut


def by_the_map(x, shortcut):
    """Spell the definition out, channel by channel."""
    x = x[:, :, :: shortcut.stride, :: shortcut.stride]
    zeros = torch.zeros_like(x[:, 0])
    return torch.stack([x[:, s] if s >= 0 else zeros for s in shortcut.source], dim=1)


def test_pads_equally_on_both_sides():
    shortcut = ZeroPadShortcut(2, 6)
    x = torch.arange(2.0 * 16).view(1, 2, 4, 4)
    out = shortcut(x)
    assert shortcut.source == (-1, -1, 0, 1, -1, -1)
    assert torch.equal(out[:, 2:4], x[:, :, ::2, ::2])
    assert out[:, :2].count_nonzero() == out[:, 4:].count_nonzero() == 0


def test_owns_no_tensors():
    assert ZeroPadShortcut(16, 32).state_dict() == {}


@pytest.mark.parametrize(
    ("keep_in", "keep_out"),
    [
        ((0, 1, 2, 3), tuple(range(8))),  # untouched
        ((0, 1, 2, 3), (2, 3, 4, 5)),  # no zeros left
        ((1, 3), (0, 3, 4, 5, 7)),  # an output loses its source
        ((0, 2), (0, 1, 6, 7)),  # zeros only
        ((3,), (5,)),
    ],
)
def test_select_keeps_what_the_kept_channels_saw(keep_in, keep_out):
    whole = ZeroPadShortcut(4, 8)
    cut = copy.deepcopy(whole)
    cut.select(keep_in, keep_out)
    x = torch.randn(2, 4, 5, 5)
    x[:, [i for i in range(4) if i not in keep_in]] = 0  # what surgery removes contributes nothing
    expected = whole(x)[:, list(keep_out)]
    assert torch.equal(cut(x[:, list(keep_in)]), expected)
    assert torch.equal(by_the_map(x[:, list(keep_in)], cut), expected)
    assert cut.in_channels == len(keep_in)


def test_selects_twice():
    shortcut = ZeroPadShortcut(4, 8)
    shortcut.select((0, 2, 3), (1, 2, 4, 5))
    assert shortcut.source == (-1, 0, 1, 2)
    shortcut.select((2, 1), (3, 0, 1))
    assert shortcut.source == (0, -1, -1)


def test_refuses_an_index_out_of_range():
    with pytest.raises(IndexError):
        ZeroPadShortcut(2, 4).select((0, 1), (4,))


@pytest.mark.parametrize("keep_out", [tuple(range(8)), (0, 3, 5, 4)], ids=["padding", "gather"])
def test_survives_export(keep_out):
    shortcut = ZeroPadShortcut(4, 8).eval()
    shortcut.select((0, 1, 2, 3), keep_out)
    x = torch.randn(2, 4, 6, 6)
    exported = torch.export.export(shortcut, (x,)).module()
    assert torch.equal(exported(x), shortcut(x))
