"""What is looked at before any work."""

import pytest
import torch
from torch import nn

from lissom.errors import ModelError, RecipeError
from lissom.methods.ajc import Ajc
from lissom.methods.ajc_settings import AjcSettings
from lissom.methods.edp import Edp
from lissom.methods.hmc import Hmc
from lissom.pipeline.checks import check_epochs, check_finite, private_copy


def test_what_is_learned_in_epochs_needs_some() -> None:
    with pytest.raises(RecipeError, match=r"epochs=0: stages\.1 \(ajc\) learns everything in its"):
        check_epochs(0, [Hmc(), Ajc()])
    check_epochs(0, [Hmc(), Ajc(AjcSettings(mode="post_training"))])
    check_epochs(0, [Edp()])
    check_epochs(1, [Ajc()])


def test_epochs_without_anything_to_train_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"recover\.epochs=3: has no effect, ajc as set up here"):
        check_epochs(3, [Ajc(AjcSettings(mode="post_training"))])


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
