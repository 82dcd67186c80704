"""Rebuilt and sliced convolutions, over all attributes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies_convolutions import convolutions

from lissom.plan.surgery import conv_like, slice_axis

# torch remarks on its own speed for some of the attributes drawn.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


@settings(max_examples=40, deadline=None)
@given(convolutions())
def test_a_rebuilt_convolution_with_the_same_values_is_the_same(case) -> None:
    new = conv_like(case.conv)
    new.load_state_dict(case.conv.state_dict())
    assert torch.equal(new(case.inputs), case.conv(case.inputs))


@settings(max_examples=40, deadline=None)
@given(convolutions(), st.data())
def test_slices_compute_the_kept_outputs_of_the_kept_inputs(case, data) -> None:
    conv, network = case.conv, case.network
    sides = (conv.out_channels, conv.in_channels)
    kept_out, kept_in = (
        sorted(data.draw(st.sets(st.integers(0, side - 1), min_size=1))) for side in sides
    )
    gone = [channel for channel in range(conv.in_channels) if channel not in kept_in]
    inputs = case.inputs.clone()
    inputs[:, gone] = 0
    with torch.no_grad():
        expected = network(inputs)[:, kept_out]
        slice_axis(network, "0.weight", 0, kept_out)
        slice_axis(network, "0.weight", 1, kept_in)
        if conv.bias is not None:
            slice_axis(network, "0.bias", 0, kept_out)
        # Double precision; fewer terms are summed.
        torch.testing.assert_close(network(inputs[:, kept_in]), expected, rtol=0, atol=1e-12)
    assert (conv.out_channels, conv.in_channels) == (len(kept_out), len(kept_in))
