import pytest
import torch

from lissom.quantization.levelled import Levelled


def levelled(values, step=0.25):
    return Levelled(torch.tensor(values, dtype=torch.int32), torch.tensor(step))


@pytest.mark.parametrize(
    ("values", "bits"),
    [([0, 0], 1), ([1, -1], 1), ([2], 2), ([3], 3), ([-4], 3), ([5], 4), ([128], 8), ([], 1)],
)
def test_bits_follow_the_largest_magnitude(values, bits):
    assert levelled(values).bits == bits


def test_the_weight_is_the_product_in_float32():
    found = levelled([[3, 0], [-7, 0]], step=0.1)
    assert found.weight.dtype == torch.float32
    assert torch.equal(found.weight, torch.tensor(0.1) * torch.tensor([[3.0, 0], [-7, 0]]))
    assert found.nonzero == 2
    assert found.density == 0.5


def test_nothing_has_no_density():
    assert levelled([]).density == 0


def test_refuses_levels_that_are_not_int32():
    with pytest.raises(ValueError, match=r"torch.float32; expected int32"):
        Levelled(torch.zeros(2), torch.tensor(1.0))


@pytest.mark.parametrize(
    "step",
    [torch.ones(1), torch.tensor(0.0), torch.tensor(float("nan")), torch.tensor(1.0).double()],
    ids=["shape", "zero", "nan", "float64"],
)
def test_refuses_a_step_that_is_none(step):
    with pytest.raises(ValueError, match="expected a float32 scalar above 0"):
        Levelled(torch.zeros(2, dtype=torch.int32), step)
