import json

import pytest
import torch
from torch import nn

from lissom.errors import PlanError
from lissom.plan.build import build
from lissom.plan.plan import Plan, tensor_shapes
from lissom.plan.round_activations import RoundActivations

FIELDS = {
    "layers": ["0", "pad"],
    "ranges": [["x", 0, 1.5], ["relu", -2, 3]],
    "reduce_range": False,
    "weight_bits": 4,
}


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_it_changes_nothing_and_survives_json(device: str) -> None:
    decision = RoundActivations.from_dict(FIELDS)
    with torch.device(device):
        model = nn.Sequential(nn.Conv2d(2, 3, 2))
    plan = Plan((decision,))
    assert tensor_shapes(build(model, plan)) == tensor_shapes(model)
    assert Plan.from_json(plan.to_json()) == plan
    assert json.loads(json.dumps(decision.to_dict())) == FIELDS
    assert decision.target == "2 layers"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": "0"}, "field 'layers' must be a list"),
        ({"layers": [0]}, r"field 'layers\[0\]' must be a string"),
        ({"ranges": [["x", 0]]}, r"field 'ranges\[0\]' must be a name and two finite numbers"),
        ({"ranges": [["x", 0, True]]}, r"ranges\[0\]"),
        ({"ranges": [["x", 0, 1], ["y", 0.5, 1]]}, r"ranges\[1\].* low <= 0 <= high"),
        ({"ranges": [["x", 0, float("inf")]]}, r"ranges\[0\]"),
        ({"reduce_range": 1}, "'reduce_range' must be true or false, got 1"),
        ({"weight_bits": 9}, "'weight_bits' must be 2 to 8, got 9"),
        ({"more": 1}, "unknown field 'more'"),
    ],
)
def test_wrong_fields_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(PlanError, match=f"round_activations: .*{message}"):
        RoundActivations.from_dict(FIELDS | changes)
