import pytest
import torch
from torch import nn

from lissom.errors import BudgetError
from lissom.packed.network import packed_network, stored_state
from lissom.packed.reader import PackedReader
from lissom.packed.smaller import packed_within
from lissom.packed.tensors import Levels
from lissom.plan.plan import Plan
from lissom.plan.quantize import Quantize
from packed_samples import kernels


def network() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(6, 16, 3), nn.Conv2d(16, 24, 3), nn.Conv2d(24, 8, 3))
    with torch.no_grad():
        for number, scale in ((0, torch.tensor(0.25)), (1, 0.1 + torch.arange(24) / 64)):
            weight = model[number].weight
            levels = torch.from_numpy(kernels(tuple(weight.shape), 0.5, seed=number))
            weight.copy_(Levels(levels, scale).tensor())
    return model.eval()


QUANTIZED = Quantize("0", 9, 864, channel_scales=False)


def planned(model: nn.Module) -> Plan:
    decisions = (QUANTIZED, Quantize("1", 9, 999, channel_scales=True))
    return Plan.starting_from(model) + Plan(decisions)


def test_levels_of_either_scale_move_towards_zero_until_the_file_fits() -> None:
    model = network()
    state, plan = stored_state(model), planned(network())
    limit = len(packed_network(state, plan).content) - 900
    found = packed_within(state, plan, limit)
    assert 0.97 * limit <= len(found.packed.content) <= limit
    reader = PackedReader.from_bytes(found.packed.content)
    now = reader.tensors()
    for name in ("0.weight", "1.weight"):
        assert (now[name].abs() <= state[name].abs()).all()
        assert (now[name] * state[name] >= 0).all()
        error = (now[name] - state[name]).square().sum() / state[name].square().sum()
        assert found.errors[name] == pytest.approx(float(error), rel=1e-3)
        assert 0 < error < 0.6
    for name in ("2.weight", "0.bias", "1.bias", "2.bias"):
        assert torch.equal(now[name], state[name])
    assert set(found.errors) == {"0.weight", "1.weight"}


def test_a_small_layer_is_no_cheaper_to_lose_than_a_large_one() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 64, 5))
    with torch.no_grad():
        for number in range(2):
            weight = model[number].weight
            levels = torch.from_numpy(kernels(tuple(weight.shape), 0.5, seed=number))
            weight.copy_(Levels(levels, torch.tensor(0.25)).tensor())
    state = stored_state(model)
    plan = Plan.starting_from(model) + Plan(
        tuple(Quantize(name, 9, 99, channel_scales=False) for name in "01")
    )
    limit = int(0.9 * len(packed_network(state, plan).content))
    errors = packed_within(state, plan, limit).errors
    assert errors.get("0.weight", 0.0) < errors["1.weight"]


def test_only_quantized_weights_change() -> None:
    model = network()
    model.register_buffer("kernel", torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16)
    state, plan = stored_state(model), Plan.starting_from(model) + Plan((QUANTIZED,))
    found = packed_within(state, plan, len(packed_network(state, plan).content) - 100)
    now = PackedReader.from_bytes(found.packed.content).tensors()
    assert set(found.errors) == {"0.weight"}
    assert all(torch.equal(now[name], state[name]) for name in state if name != "0.weight")


def test_the_plan_says_what_the_levels_are_now() -> None:
    model = network()
    state, plan = stored_state(model), planned(model)
    found = packed_within(state, plan, len(packed_network(state, plan).content) - 500)
    reader = PackedReader.from_bytes(found.packed.content)
    now = reader.tensors()
    for decision in Plan.from_json(reader.plan).decisions:
        assert isinstance(decision, Quantize)
        weight = now[f"{decision.layer}.weight"]
        assert decision.nonzero == int(weight.count_nonzero())
        assert 2 <= decision.bits < 9


def test_what_fits_stays() -> None:
    model = network()
    state, plan = stored_state(model), Plan.starting_from(model)
    found = packed_within(state, plan, 10**6)
    assert found.errors == {}
    assert found.packed.content == packed_network(state, plan).content


def test_a_size_that_no_levels_can_reach_is_refused() -> None:
    model = network()
    with pytest.raises(BudgetError, match=r"with zeros for all of the 2 quantized weights"):
        packed_within(stored_state(model), planned(model), 3000)
    plain = nn.Linear(8, 8)
    with pytest.raises(BudgetError, match=r"the 0 quantized weights, above 100; .* quantize first"):
        packed_within(stored_state(plain), Plan.starting_from(plain), 100)
