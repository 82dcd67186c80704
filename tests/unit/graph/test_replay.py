from __future__ import annotations

import copy

import pytest
import torch
from nets import Gate, Residual
from torch import nn

from lissom.graph.replay import Replay
from lissom.graph.steps import last_reads

X = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def reference(model, overrides):
    changed = copy.deepcopy(model)
    state = changed.state_dict()
    for name, tensor in overrides.items():
        state[name].copy_(tensor)
    with torch.no_grad():
        return changed(X)


def same(found, expected):
    """Compare up to what a batch norm in the weights moves."""
    return torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Residual().eval()


def test_every_override_gives_what_a_full_run_gives(model):
    replay = Replay(model, (X,))
    assert same(replay.record((X,)), model(X))
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            overrides = {name: tensor * 1.5 + 0.1}
            assert same(replay.run(overrides), reference(model, overrides)), name
    assert same(replay.run({}), model(X))  # the recorded activations are untouched


def test_several_overrides_at_once(model):
    overrides = {"a.weight": torch.zeros(6, 8, 3, 3), "head.bias": torch.ones(4)}
    replay = Replay(model, (X,))
    replay.record((X,))
    assert same(replay.run(overrides), reference(model, overrides))


def test_only_what_changed_is_run_again(model):
    replay = Replay(model, (X,))
    replay.record((X,))
    # stem 3*8*9*64, a 8*6*9*64, b 6*8*9*64, head 8*4
    total = 13824 + 27648 + 27648 + 32
    assert replay.affected(["head.weight"]) == pytest.approx(32 / total)
    assert replay.affected(["b.bias"]) == pytest.approx((27648 + 32) / total)
    assert replay.affected(["stem.weight", "head.bias"]) == 1.0
    replay.run({"head.bias": torch.ones(4)})
    replay.run({"stem.bias": torch.ones(8)})
    assert replay.runs == 2
    assert replay.equivalent_forwards == pytest.approx(1 + 32 / total)


def test_an_alias_of_a_tied_tensor_overrides_it():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True), nn.Conv2d(3, 3, 1)).eval()
    model[2].weight = model[0].weight
    replay = Replay(model, (X,))
    replay.record((X,))
    new = torch.full((3, 3, 1, 1), 0.3)
    expected = reference(model, {"2.weight": new})
    assert torch.equal(replay.run({"2.weight": new}), expected)
    assert torch.equal(replay.run({"0.weight": new}), expected)


def test_writing_through_a_view_is_followed():
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 2, 1)

        def forward(self, x):
            y = self.a(x)
            y[:, :2] += self.b(x)
            return {"y": y.relu_(), "both": (y, x)}

    torch.manual_seed(0)
    model = Writes().eval()
    replay = Replay(model, (X,))
    replay.record((X,))
    overrides = {"b.weight": torch.ones(2, 3, 1, 1)}
    got, expected = replay.run(overrides), reference(model, overrides)
    assert torch.equal(got["y"], expected["y"])
    assert torch.equal(got["both"][0], expected["both"][0])


def test_nothing_is_kept_that_nobody_reads_again(model):
    replay = Replay(model, (X,))
    steps, outputs = replay._steps, replay._program.outputs
    done = last_reads(steps, outputs)
    gone = [read for reads in done.values() for read in reads]
    assert len(gone) == len(set(gone))
    ends = {step.end for step in steps}
    assert ends - set(gone) == {one for one in outputs if one in ends}
    place = {step.end: index for index, step in enumerate(steps)}
    for last, reads in done.items():
        for read in reads:
            readers = [place[step.end] for step in steps if read in step.sources]
            assert max(readers) == place[last]


def test_the_network_stays_as_it_is():
    torch.manual_seed(0)
    model = Gate().train()
    before = copy.deepcopy(model.state_dict())
    replay = Replay(model, (X,))
    replay.record((X,))
    replay.run({"up.weight": torch.zeros(8, 2, 1, 1)})
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_wrong_use_is_refused(model):
    replay = Replay(model, (X,))
    with pytest.raises(ValueError, match="call record first"):
        replay.run({})
    with pytest.raises(ValueError, match=r"inputs of shapes \(\(3, 3, 8, 8\),\) are expected"):
        replay.record((X[:2],))
    replay.record((X,))
    with pytest.raises(ValueError, match="no parameter or buffer 'nothing'"):
        replay.run({"nothing": X})
    with pytest.raises(ValueError, match=r"a.weight has shape \(6, 8, 3, 3\), got \(1,\)"):
        replay.run({"a.weight": torch.zeros(1)})


@pytest.mark.parametrize("name", ["stem.weight", "norm.running_mean", "a.weight", "head.weight"])
def test_the_comparison_sees_a_node_that_was_wrongly_not_run_again(model, name, monkeypatch):
    """Leave out each operator that an override reaches: the outputs differ every time."""
    overrides = {name: model.state_dict()[name] * 1.5 + 0.1}
    expected = reference(model, overrides)
    complete = Replay._downstream
    replay = Replay(model, (X,))
    replay.record((X,))
    reached = len(complete(replay, frozenset([replay._tensor_nodes[name]])))
    assert reached
    for left_out in range(reached):

        def short(self, roots, left_out=left_out):
            nodes = complete(self, roots)
            return nodes[:left_out] + nodes[left_out + 1 :]

        monkeypatch.setattr(Replay, "_downstream", short)
        assert not torch.equal(replay.run(overrides), expected), left_out
