"""What is looked at before any work."""

import pytest
import torch
from torch import nn

from lissom.errors import ModelError
from lissom.pipeline.checks import check_finite, private_copy


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16])
def test_networks_compute_in_float32(kind) -> None:
    with pytest.raises(ModelError, match=rf"0.weight: is {kind}, .* pass model.float\(\)"):
        check_finite(nn.Sequential(nn.Linear(2, 2)).to(kind))


def test_what_is_not_finite_is_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    check_finite(model)
    model[0].bias.data[1] = torch.inf
    with pytest.raises(ModelError, match=r"0\.bias: holds NaN or infinite values"):
        check_finite(model)


def test_a_network_frozen_for_inference_may_be_trained_and_one_in_part_stays_so() -> None:
    frozen = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).requires_grad_(False)
    assert all(one.requires_grad for one in private_copy(frozen).parameters())
    assert not any(one.requires_grad for one in frozen.parameters())
    frozen[1].requires_grad_(True)
    assert [one.requires_grad for one in private_copy(frozen).parameters()] == [False] * 2 + [
        True
    ] * 2
