from __future__ import annotations

import pytest
import torch

from lissom.pruning.importance import aggregate, bn_scale, fpgm, l1, l2, taylor

ROWS = torch.tensor([[3.0, -4.0], [0.0, 0.0], [3.0, -4.0]])


def test_by_hand() -> None:
    assert l1(ROWS).tolist() == [7, 0, 7]
    assert l2(ROWS).tolist() == [5, 0, 5]
    assert fpgm(ROWS).tolist() == [5, 10, 5]  # equal filters are replaceable
    assert bn_scale(torch.tensor([-2.0, 1.0])).tolist() == [2, 1]
    assert taylor(ROWS, torch.ones(3, 2)).tolist() == [-1, 0, -1]


def test_taylor_is_the_first_order_change_of_the_loss() -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    inputs = torch.randn(5, dtype=torch.float64)
    # Linear in the weight, so that the first order is everything.
    (weight @ inputs).sum().backward()
    for row in range(4):
        cut = weight.detach().clone()
        cut[row] = 0
        change = (weight.detach() @ inputs).sum() - (cut @ inputs).sum()
        assert float(taylor(weight.detach(), weight.grad)[row]) == pytest.approx(float(change))
    with pytest.raises(ValueError, match=r"\(4, 5\), their gradients \(4, 4\)"):
        taylor(weight, weight[:, :4])


def test_tensors_of_unequal_scale_count_alike() -> None:
    scores = aggregate([torch.tensor([1.0, 3.0]), torch.tensor([3000.0, 1000.0])])
    assert scores.tolist() == [1, 1]
    assert aggregate([torch.zeros(2)]).tolist() == [0, 0]
    with pytest.raises(ValueError, match="nothing to aggregate"):
        aggregate([])
