from __future__ import annotations

import copy
import warnings

import pytest
import torch
from nets import Residual, Undecidable
from torch import nn

from lissom.errors import ModelError
from lissom.graph.replay import Replay
from lissom.graph.whole_run import WholeRun, replay_of

X = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def reference(model, overrides):
    changed = copy.deepcopy(model)
    state = changed.state_dict()
    for name, tensor in overrides.items():
        state[name].copy_(tensor)
    with torch.no_grad():
        return changed(X)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Undecidable().eval()


def test_only_networks_that_cannot_be_exported_are_run_whole(model):
    assert isinstance(replay_of(model, (X,)), WholeRun)
    assert isinstance(replay_of(Residual(), (X,)), Replay)
    with pytest.raises(ModelError, match="a network is expected"):
        replay_of(lambda x: x, (X,))


def test_every_override_gives_what_the_changed_network_gives(model):
    run = WholeRun(model, (X,))
    assert torch.equal(run.record((X,)), model(X))
    for name, tensor in model.state_dict().items():
        overrides = {name: tensor * 1.5 + 0.1}
        got = run.run(overrides)
        assert torch.equal(got, reference(model, overrides)), name
        assert not torch.equal(got, model(X)), name
        assert not got.requires_grad
    assert torch.equal(run.run({}), model(X))  # each override was taken out again
    assert run.affected(["stem.weight"]) == run.affected([]) == 1.0
    assert run.runs == run.equivalent_forwards == len(model.state_dict()) + 1


def test_it_agrees_with_replay_where_both_work():
    torch.manual_seed(0)
    model = Residual().eval()
    overrides = {"a.weight": torch.zeros(6, 8, 3, 3), "norm.running_var": torch.full((8,), 2.0)}
    runs = [Replay(model, (X,)), WholeRun(model, (X,))]
    # A replay folds batch norms.
    torch.testing.assert_close(*(run.record((X,)) for run in runs), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(*(run.run(overrides) for run in runs), rtol=1e-5, atol=1e-5)


def test_a_scripted_part_and_tied_tensors():
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()))
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), scripted).eval()
    model[1].weight = model[0].weight
    run = replay_of(model, (X,))
    assert isinstance(run, WholeRun)
    run.record((X,))
    new = torch.full((3, 3, 1, 1), 0.3)
    for name in ("0.weight", "1.weight", "2.0.weight"):
        assert torch.equal(run.run({name: new}), reference(model, {name: new})), name


def test_a_network_that_writes_into_its_inputs_and_buffers():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 2, 1)
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x):
            self.seen += 1
            return self.layer(x.relu_()) * self.seen

    torch.manual_seed(0)
    run = WholeRun(Counts(), (X,))
    x = X.clone()
    first = run.record((x,))
    assert torch.equal(x, X)
    assert torch.equal(run.run({}), first)


def test_the_network_and_the_generators_stay_as_they_are():
    torch.manual_seed(0)
    model = nn.Sequential(Undecidable(), nn.Dropout(0.5)).train()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    run = WholeRun(model, (X,))
    run.record((X,))
    run.run({"0.stem.weight": torch.zeros(8, 3, 3, 3)})
    assert model.training
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_wrong_use_is_refused(model):
    run = WholeRun(model, (X,))
    with pytest.raises(ValueError, match="call record first"):
        run.run({})
    with pytest.raises(ValueError, match=r"inputs of shapes \(\(3, 3, 8, 8\),\) are expected"):
        run.record((X[:2],))
    run.record((X,))
    with pytest.raises(ValueError, match="no parameter or buffer 'nothing'"):
        run.run({"nothing": X})
    with pytest.raises(ValueError, match="no parameter or buffer 'nothing'"):
        run.affected(["nothing"])
    with pytest.raises(ValueError, match=r"stem.weight has shape \(8, 3, 3, 3\), got \(1,\)"):
        run.run({"stem.weight": torch.zeros(1)})
