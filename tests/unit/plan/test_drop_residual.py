"""The decision that a residual branch goes."""

import pytest
import torch
from torch import nn

from lissom.errors import PlanError
from lissom.plan.build import build
from lissom.plan.drop_residual import DropResidual, Nothing
from lissom.plan.plan import Plan


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 9)
        self.second = nn.Linear(9, 4)

    def forward(self, x):
        return x + self.second(torch.relu(self.first(x)))


DROP = DropResidual(("first",), "second")


def test_the_network_hands_its_input_on():
    model = Residual()
    x = torch.randn(3, 4)
    smaller = build(model, Plan((DROP,)))
    assert torch.equal(smaller(x), x)
    assert not list(smaller.parameters())
    assert isinstance(smaller.second, Nothing)
    assert isinstance(model.second, nn.Linear)


def test_survives_json_and_the_meta_device():
    plan = Plan((DROP,))
    assert Plan.from_json(plan.to_json()) == plan
    with torch.device("meta"):
        build(Residual(), plan)
    assert DROP.target == "second"


@pytest.mark.parametrize(
    ("decision", "message"),
    [
        (DropResidual(("first", "third"), "second"), "third"),
        (DropResidual(("first",), "gone"), "gone"),
        (DropResidual(("first", "second"), "second"), "named twice"),
    ],
)
def test_what_does_not_fit_is_named(decision, message):
    with pytest.raises(PlanError, match=message):
        decision.apply(Residual())


@pytest.mark.parametrize(
    "fields", [{"layers": [3], "last": "b"}, {"layers": "a", "last": "b"}, {"last": "b"}]
)
def test_damaged_fields_are_refused(fields):
    with pytest.raises(PlanError, match="layers"):
        DropResidual.from_dict(fields)


def test_nothing_is_zeros_of_the_inputs_shape_and_type():
    zero = Nothing()(torch.ones(2, 3, dtype=torch.float64))
    assert torch.equal(zero, torch.zeros(2, 3, dtype=torch.float64))
