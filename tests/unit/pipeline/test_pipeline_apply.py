from __future__ import annotations

import pytest
import torch
from torch import nn

from lissom.errors import BudgetError
from lissom.packed.network import packed_network, stored_state
from lissom.pipeline.apply import packed_file
from lissom.plan.plan import Plan
from lissom.plan.quantize import Quantize

QUANTIZED = Plan((Quantize("0", 1, 72, channel_scales=False),))


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3))
    model[0].weight.data = model[0].weight.data.sign() / 8
    return model


def test_a_file_is_made_where_something_is_quantized_or_bytes_are_asked() -> None:
    model = network()
    expected = packed_network(stored_state(model), QUANTIZED)
    assert packed_file(model, QUANTIZED, None) == expected
    assert packed_file(model, QUANTIZED, len(expected.content)) == expected
    assert packed_file(model, Plan(()), None) is None
    assert packed_file(model, Plan(()), 10_000) == packed_network(stored_state(model), Plan(()))


def test_a_file_of_one_byte_too_many_is_refused() -> None:
    model = network()
    size = len(packed_network(stored_state(model), QUANTIZED).content)
    with pytest.raises(BudgetError, match=rf"has {size} bytes, above the budget of {size - 1};"):
        packed_file(model, QUANTIZED, size - 1)
