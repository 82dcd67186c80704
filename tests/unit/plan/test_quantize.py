from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from lissom.errors import PlanError, UnsupportedLayer
from lissom.plan.build import build
from lissom.plan.plan import Plan, tensor_shapes
from lissom.plan.quantize import Quantize

DECISION = {"kind": "quantize", "layer": "0", "bits": 3, "nonzero": 5, "channel_scales": True}


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), weight_norm(nn.Linear(2, 2)))


def from_json(**changes: object) -> Quantize:
    body = {"format": 1, "source": None, "signature": "", "tensors": {}}
    plan = Plan.from_json(json.dumps(body | {"decisions": [DECISION | changes]}))
    (decision,) = plan.decisions
    assert isinstance(decision, Quantize)
    return decision


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 16), st.integers(0, 24), st.booleans(), st.sampled_from(["cpu", "meta"]))
def test_it_checks_the_weight_and_changes_nothing(bits, nonzero, scales, device) -> None:
    decision = Quantize("0", bits, nonzero, scales)
    with torch.device(device):
        model = nn.Sequential(nn.Conv2d(2, 3, 2))
    new = build(model, Plan((decision,)))
    assert tensor_shapes(new) == tensor_shapes(model)
    assert type(new[0]) is nn.Conv2d
    assert decision.target == "0"
    assert from_json(**decision.to_dict()) == decision


@pytest.mark.parametrize(
    ("decision", "error", "message"),
    [
        (Quantize("9", 3, 5, False), PlanError, "layer '9' does not exist in Sequential"),
        (Quantize("0", 0, 5, False), PlanError, "0: bits=0, expected 1 to 16; the plan belongs"),
        (Quantize("0", 17, 5, False), PlanError, "0: bits=17, expected 1 to 16"),
        (Quantize("0", 3, -1, False), PlanError, "0: nonzero=-1, expected 0 to 24"),
        (Quantize("0", 3, 25, False), PlanError, "0: nonzero=25, expected 0 to 24"),
        (Quantize("1", 3, 5, False), UnsupportedLayer, "1: quantization needs .* got ReLU"),
        (Quantize("2", 3, 3, False), UnsupportedLayer, "2: quantization needs a layer with a wei"),
    ],
)
def test_what_does_not_fit_is_named(decision, error, message) -> None:
    with pytest.raises(error, match=message):
        build(network(), Plan((decision,)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer": 3}, "quantize: field 'layer' must be a string, got 3"),
        ({"bits": 2.5}, "quantize: field 'bits' must be an integer, got 2.5"),
        ({"nonzero": True}, "quantize: field 'nonzero' must be an integer, got True"),
        ({"channel_scales": 1}, "quantize: field 'channel_scales' must be true or false, got 1"),
        ({"more": 1}, "quantize: unknown field 'more'"),
    ],
)
def test_fields_of_another_type_are_named(changes, message) -> None:
    with pytest.raises(PlanError, match=message):
        from_json(**changes)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(PlanError, match="quantize: field 'nonzero' is missing"):
        Quantize.from_dict({"layer": "0", "bits": 3})
