import pytest
import torch
from torch import nn

from lissom.errors import DataError
from lissom.task import Classification
from lissom.train.evaluate import evaluate, watched


def test_weighs_samples_not_batches():
    right, wrong = torch.eye(2), torch.eye(2).flip(0)
    batches = [(torch.cat([right, right]), torch.tensor([0, 1, 0, 1])), (wrong, torch.arange(2))]
    assert evaluate(nn.Identity(), batches, Classification()) == pytest.approx(4 / 6)


def test_runs_in_eval_mode_and_changes_nothing(data, network):
    model = network().train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    first = evaluate(model, data.test, Classification())
    assert evaluate(model, data.test, Classification()) == first
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert [m.training for m in model][:3] == [True, False, True]
    assert torch.equal(random, torch.get_rng_state())


def test_precision_is_an_option(data):
    seen = []

    class Probe(Classification):
        def scores(self, outputs, batch):
            seen.append(outputs.dtype)
            return super().scores(outputs, batch)

    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    evaluate(model, data.test, Probe())
    evaluate(model, data.test, Probe(), precision="bf16")
    assert set(seen[:2]) == {torch.float32}
    assert set(seen[2:]) == {torch.bfloat16}


def test_an_empty_set_is_an_error():
    with pytest.raises(DataError, match="empty; expected at least one batch"):
        evaluate(nn.Identity(), [], Classification())


def test_watched_batches_are_the_batches() -> None:
    assert list(watched("evaluate", [1, 2])) == [1, 2]
    assert list(watched("evaluate", (number for number in (3, 4)))) == [3, 4]
