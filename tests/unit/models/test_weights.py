import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lissom.errors import WeightsError
from lissom.models.weights import load_weights


def network():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


def same(a, b):
    return all(torch.equal(a.state_dict()[key], b.state_dict()[key]) for key in b.state_dict())


def write(path, tensors):
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path


@pytest.fixture(params=["w.safetensors", "w.pt", "w.pth"])
def path(request, tmp_path):
    return tmp_path / request.param


def test_loads(path):
    source, target = network(), network()
    load_weights(target, write(path, source.state_dict()))
    assert same(target, source)


def test_the_comparison_notices_a_difference():
    assert not same(network(), network())


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_finds_nested_and_prefixed(tmp_path, key):
    source, target = network(), network()
    prefixed = {f"module.{name}": tensor for name, tensor in source.state_dict().items()}
    load_weights(target, write(tmp_path / "w.pth", {"epoch": 3, key: prefixed}))
    assert same(target, source)


def test_missing_file(path):
    with pytest.raises(WeightsError, match=r"no such file; give a \.safetensors"):
        load_weights(network(), path)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.95])
def test_truncated_file(path, keep):
    content = write(path, network().state_dict()).read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(WeightsError, match=f"{path.name}: (truncated|damaged)"):
        load_weights(network(), path)


def test_garbage(path):
    path.write_bytes(b"not a weights file at all" * 10)
    with pytest.raises(WeightsError, match=path.name):
        load_weights(network(), path)


class Malicious:
    def __reduce__(self):
        return (exec, ("raise SystemExit('it ran')",))


@pytest.mark.parametrize(
    "save", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o, protocol=2))]
)
def test_runs_no_code(tmp_path, save):
    save({"state_dict": Malicious()}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="would run their code"):
        load_weights(network(), tmp_path / "w.pt")


def test_not_a_state_dict(tmp_path):
    with pytest.raises(WeightsError, match="holds a list, expected a state dict"):
        load_weights(network(), write(tmp_path / "w.pt", [1, 2]))
    with pytest.raises(WeightsError, match="'epoch' is a int, expected a tensor"):
        load_weights(network(), write(tmp_path / "w.pt", {"epoch": 3}))


def changed(change):
    state = network().state_dict()
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("1.bias"), "1 of 7 tensors are missing, first '1.bias'"),
        (lambda s: s.update(extra=torch.ones(1)), "1 are unexpected, first 'extra'"),
        (
            lambda s: s.update({"0.weight": torch.ones(2, 1, 5, 5)}),
            r"0.weight has shape \(2, 1, 5, 5\), the network expects \(2, 1, 3, 3\)",
        ),
        (lambda s: s["1.weight"].fill_(float("nan")), "1.weight holds 2 NaN or infinite of 2"),
        (lambda s: s["0.bias"][0].fill_(float("inf")), "0.bias holds 1 NaN or infinite of 2"),
    ],
    ids=["missing", "unexpected", "shape", "nan", "inf"],
)
def test_refuses_what_does_not_fit_and_changes_nothing(path, change, message):
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError, match=message):
        load_weights(model, write(path, changed(change)))
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_counters_that_old_files_lack_stay(path):
    source, target = network(), network()
    source[1].num_batches_tracked += 7
    old = {k: v for k, v in source.state_dict().items() if not k.endswith("num_batches_tracked")}
    load_weights(target, write(path, old))
    assert target[1].num_batches_tracked == 0
    assert torch.equal(target[0].weight, source[0].weight)
