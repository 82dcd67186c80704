import math

import pytest
import torch
from torch import nn

from lissom.errors import ExportError
from lissom.export.difference import largest_difference, outputs_of


def test_the_largest_of_all_outputs_counts():
    expected = [torch.tensor([1.0, -4.0]), torch.zeros(2, 2)]
    found = [torch.tensor([1.0, -4.5]), torch.full((2, 2), 0.25)]
    assert largest_difference(expected, found) == (0.5, 4.0)


def test_nan_is_a_difference():
    difference, _ = largest_difference(
        [torch.zeros(2), torch.ones(1)], [torch.tensor([0.0, math.nan]), torch.ones(1)]
    )
    assert math.isnan(difference)


def test_other_shapes_are_not_compared():
    with pytest.raises(ExportError, match=r"shapes \[\(2,\)\], the network \[\(1, 2\)\]"):
        largest_difference([torch.zeros(1, 2)], [torch.zeros(2)])


def test_answers_that_are_no_numbers_count_as_0_and_1():
    expected = [torch.tensor([True, False]), torch.tensor([3])]
    assert largest_difference(expected, [torch.tensor([True, True]), torch.tensor([3])]) == (1, 3)


def test_outputs_are_flattened():
    class Two(nn.Module):
        def forward(self, x):
            return {"a": x, "b": (x + 1, None)}

    outputs = outputs_of(Two(), [torch.zeros(1)])
    assert [float(one) for one in outputs] == [0.0, 1.0]
