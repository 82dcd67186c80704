import math

import pytest
import torch

from lissom.errors import DataError
from lissom.task import Classification

TASK = Classification()
LOGITS = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
BATCH = (torch.zeros(3, 1), torch.tensor([0, 0, 0]))


def test_inputs_are_the_first_entry():
    images = torch.zeros(2, 3)
    assert TASK.inputs((images, 1)) == (images,)
    assert TASK.inputs([[images, images], 1]) == (images, images)


@pytest.mark.parametrize("batch", [torch.zeros(2), {"x": 1}, ()])
def test_other_batches_are_refused(batch):
    with pytest.raises(DataError, match=r"Classification expects \(inputs, targets\)"):
        TASK.inputs(batch)


def test_loss_is_the_cross_entropy():
    expected = (math.log1p(math.exp(-2)) + math.log1p(math.e) + math.log1p(math.exp(-3))) / 3
    assert float(TASK.loss(LOGITS, BATCH)) == pytest.approx(expected, rel=1e-5)


def test_scores_say_where_the_largest_logit_is_the_target():
    assert TASK.scores(LOGITS, BATCH).tolist() == [1.0, 0.0, 1.0]
    assert TASK.metric.higher_is_better


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_distance_is_the_divergence_from_the_reference(temperature):
    other = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 2.0]])
    p, q = (torch.softmax(one / temperature, 1).double() for one in (LOGITS, other))
    expected = float((p * (p / q).log()).sum() / 3) * temperature**2
    assert float(TASK.distance(other, LOGITS, temperature)) == pytest.approx(expected, rel=1e-4)
    assert float(TASK.distance(LOGITS, LOGITS, temperature)) == pytest.approx(0, abs=1e-7)
    assert float(TASK.distance(LOGITS, other, temperature)) != pytest.approx(expected, rel=1e-2)


def test_of_several_outputs_the_first_counts():
    for outputs in ((LOGITS, 1), [LOGITS], {"out": LOGITS, "aux": 2 * LOGITS}, {"a": (LOGITS,)}):
        assert torch.equal(TASK.scores(outputs, BATCH), TASK.scores(LOGITS, BATCH))
