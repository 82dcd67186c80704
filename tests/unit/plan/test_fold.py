from __future__ import annotations

import pytest
import torch
from torch import nn

from lissom.errors import UnsupportedLayer
from lissom.plan.build import build
from lissom.plan.fold import FoldBatchNorm, fold_values
from lissom.plan.plan import Plan


def alive(norm: nn.Module) -> nn.Module:
    for name in ("weight", "bias", "running_mean"):
        if getattr(norm, name) is not None:
            nn.init.normal_(getattr(norm, name))
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return norm


@pytest.mark.parametrize(
    ("layer", "norm", "inputs"),
    [
        (nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), (2, 3, 7, 7)),
        (nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8), (2, 4, 7, 7)),
        (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), (2, 3, 7, 7)),
        (nn.Conv1d(3, 4, 3, bias=False), nn.BatchNorm1d(4), (2, 3, 7)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6), (2, 4, 5, 5)),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), (2, 4, 5, 5)),
        (nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), (2, 3)),
    ],
)
def test_the_folded_network_computes_the_same(layer, norm, inputs) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(layer, alive(norm)).eval()
    values = fold_values(model, "0", "1")
    decision = FoldBatchNorm("0", "1")
    new = build(model, Plan((decision,)))
    assert isinstance(new[1], nn.Identity)
    assert decision.target == "0"
    new.load_state_dict(values)
    given = torch.randn(inputs)
    with torch.no_grad():
        # Float32 rounding of another order of operations.
        torch.testing.assert_close(new(given), model(given), atol=1e-5, rtol=1e-5)


class ActivatedNorm(nn.BatchNorm2d):
    pass


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            (nn.ReLU(), nn.BatchNorm2d(4)),
            r"0: folding needs a convolution or a linear layer .* got ReLU",
        ),
        ((nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)), r"1: folding into 0 needs one of torch's own"),
        ((nn.Conv2d(3, 4, 3), ActivatedNorm(4)), r"got ActivatedNorm"),
        (
            (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
            r"1: folding needs running statistics",
        ),
    ],
)
def test_what_cannot_be_folded_is_named(layers, message) -> None:
    model = nn.Sequential(*layers)
    with pytest.raises(UnsupportedLayer, match=message):
        fold_values(model, "0", "1")
    with pytest.raises(UnsupportedLayer, match=message):
        FoldBatchNorm("0", "1").apply(model)
