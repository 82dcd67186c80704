"""What a runtime is asked to do, read off modules."""

import pytest
import torch
from torch import nn

from lissom.measure.operation import Operation, operations_of


def test_lists_calls_in_the_order_in_which_they_run():
    shared = nn.Linear(8, 8)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, (1, 3), padding=(0, 1), groups=8, dilation=(1, 1)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        shared,
        shared,
    )
    found = operations_of(network, (torch.empty(1, 3, 9, 7),))
    assert found == (
        Operation(3, 8, (9, 7), (3, 3), (2, 2), (1, 1, 1, 1)),
        Operation(8, 8, (5, 4), (1, 3), (1, 1), (0, 1, 0, 1), (1, 1), 8),
        Operation(8, 8, (1, 1)),
        Operation(8, 8, (1, 1)),
    )
    assert found[1].weight_shape == (8, 1, 1, 3)
    assert found[2].weight_shape == (8, 8)


def test_rows_of_a_matrix_product_are_counted_per_sample():
    (found,) = operations_of(nn.Linear(6, 4), (torch.empty(1, 5, 2, 6),))
    assert found == Operation(6, 4, (1, 10))
    assert found.input_shape(3) == (30, 6)


@pytest.mark.filterwarnings("ignore:Using padding=.same.")
@pytest.mark.parametrize(
    ("padding", "kernel", "expected"),
    [
        ("valid", 3, (0, 0, 0, 0)),
        ("same", 3, (1, 1, 1, 1)),
        ("same", (2, 4), (0, 1, 1, 2)),
        ((2, 0), 3, (2, 0, 2, 0)),
    ],
)
def test_padding_is_given_per_side_as_torch_pads(padding, kernel, expected):
    (found,) = operations_of(nn.Conv2d(2, 2, kernel, padding=padding), (torch.empty(1, 2, 8, 8),))
    assert found.padding == expected


def test_meta_tensors_will_do_and_hooks_are_taken_off():
    network = nn.Sequential(nn.Conv2d(3, 4, 1)).to("meta")
    example = torch.empty(1, 3, 2, 2, device="meta")
    assert operations_of(network, (example,)) == operations_of(network, (example,))
    assert not network[0]._forward_pre_hooks


def test_other_layers_are_left_out():
    network = nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.BatchNorm2d(4))
    assert operations_of(network.eval(), (torch.empty(1, 3, 2, 2),)) == ()
