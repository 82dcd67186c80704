"""Rows: what must vanish for a channel to go, what is refused, how groups shrink together."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissom.graph.capture import capture
from lissom.relaxation.rows import filter_rows, learnable_rows
from lissom.relaxation.support import ROWS
from relaxation_samples import Mobile, Plain, Residual, images, relaxed, relaxed_from

INPUTS = (torch.zeros(1, 3, 8, 8),)


class Chain(nn.Module):
    """One hidden layer of six channels: convolution, norm, activation, convolution."""

    def __init__(self, act, norm=None, bias=False) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 6, 3, padding=1, bias=bias), norm or nn.Identity()
        self.b, self.act = nn.Conv2d(6, 5, 3, padding=1), act

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.act(self.norm(self.a(x)))).mean((2, 3))


def learned(model, name="a"):
    """Give the rows of one group, or the reason why there are none."""
    graph = capture(model.eval(), INPUTS)
    rows, refused = learnable_rows(model, graph.groups, INPUTS)
    found = {row.group.name: row for row in rows}
    return found.get(name), refused.get(name)


def parts(model, row) -> dict[str, bool]:
    """Name what vanishes, and whether a negative entry may stay."""
    names = {id(p): n for n, p in model.named_parameters()}
    return {names[id(part.parameter)]: part.floor for part in row.parts}


def trained_norm(kind=nn.BatchNorm2d, **options):
    norm = kind(6, **options)
    for tensor in norm.parameters():
        nn.init.uniform_(tensor, -1.0, 1.0)
    return norm


def test_before_a_relu_a_negative_shift_may_stay() -> None:
    model = Chain(nn.ReLU(), trained_norm())
    row, _ = learned(model)
    assert parts(model, row) == {"norm.weight": False, "norm.bias": True}


@pytest.mark.parametrize("act", [nn.SiLU(), nn.Hardswish(), nn.LeakyReLU(), nn.Identity()])
def test_before_other_activations_that_keep_zero_the_shift_goes_too(act) -> None:
    model = Chain(act, trained_norm())
    row, _ = learned(model)
    assert parts(model, row) == {"norm.weight": False, "norm.bias": False}


def test_without_a_norm_filters_and_bias_vanish() -> None:
    model = Chain(nn.ReLU(), bias=True)
    row, _ = learned(model)
    assert parts(model, row) == {"a.weight": False, "a.bias": True}
    smooth = Chain(nn.SiLU(), bias=True)
    row, _ = learned(smooth)
    assert parts(smooth, row) == {"a.weight": False, "a.bias": False}


@pytest.mark.parametrize("act", [nn.Sigmoid(), nn.Softplus()])
def test_an_activation_that_answers_zero_with_something_else_is_refused(act) -> None:
    row, refused = learned(Chain(act, trained_norm()))
    assert row is None
    assert "do not read zeros" in refused


@pytest.mark.parametrize(
    ("norm", "reason"),
    [
        (nn.InstanceNorm2d(6, affine=True), "do not read zeros"),
        (nn.BatchNorm2d(6, affine=False), "do not read zeros"),
        (nn.GroupNorm(2, 6), "computes over its channels"),
    ],
)
def test_a_norm_that_would_shift_the_zeros_again_is_refused_even_while_new(norm, reason) -> None:
    """Its shift is zero now, and something else once it has been trained."""
    row, refused = learned(Chain(nn.ReLU(), norm))
    assert row is None
    assert reason in refused


def test_channels_that_the_network_returns_are_refused() -> None:
    row, refused = learned(Chain(nn.ReLU(), trained_norm()), "b")
    assert row is None
    assert "returns these channels" in refused


def test_a_depthwise_chain_vanishes_as_one() -> None:
    case = relaxed(Mobile, learn=("rows",))
    row = case.relaxation.rows["up"]
    assert parts(case.network, row) == {
        "norm_up.weight": False,
        "norm_up.bias": True,
        "norm_deep.weight": False,
        "norm_deep.bias": True,
    }
    smooth = relaxed_from(Mobile(nn.SiLU()).eval(), capture(Mobile(nn.SiLU()).eval(), INPUTS))
    row = smooth.relaxation.rows["up"]
    assert not any(parts(smooth.network, row).values())


@pytest.mark.parametrize("factory", [Residual, Mobile, Plain])
def test_looking_changes_nothing(factory) -> None:
    model = factory().eval()
    before = copy.deepcopy(model.state_dict())
    graph = capture(model, INPUTS)
    learnable_rows(model, graph.groups, INPUTS)
    assert all(torch.equal(model.state_dict()[n], t) for n, t in before.items())


def test_values_are_put_back_where_the_run_fails() -> None:
    model = Chain(nn.ReLU(), trained_norm()).eval()
    graph = capture(model, INPUTS)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="channels"):
        learnable_rows(model, graph.groups, (torch.zeros(1, 4, 8, 8),))
    assert all(torch.equal(model.state_dict()[n], t) for n, t in before.items())


def test_coupled_channels_are_left_alone_unless_asked_for() -> None:
    inner, whole = relaxed(Residual), relaxed(Residual, row_groups="all")
    assert set(inner.relaxation.rows) == {"a", "c"}
    assert "row_groups=all" in inner.relaxation.refused["stem"]
    assert set(whole.relaxation.rows) == {"stem", "a", "c", "d"}
    assert {
        name.rpartition(".")[0] for name in parts(whole.network, whole.relaxation.rows["stem"])
    } == {"norm", "norm_b"}


def test_the_strength_of_a_channel_is_over_all_norms_of_its_group() -> None:
    case = relaxed(Residual, row_groups="all")
    row, net = case.relaxation.rows["stem"], case.network
    squares = sum(
        norm.weight.detach().square() + norm.bias.detach().clamp_min(0).square()
        for norm in (net.norm, net.norm_b)
    )
    torch.testing.assert_close(row.strengths(), (squares / squares.sum()).sqrt())


@pytest.mark.parametrize("power", [1, 2])
def test_coupled_channels_shrink_by_one_factor_in_all_norms(power) -> None:
    case = relaxed(Residual, row_groups="all")
    row, net = case.relaxation.rows["stem"], case.network
    before = copy.deepcopy(net.state_dict())
    strengths = row.strengths()
    amount = torch.tensor(float(strengths.median()) ** power)
    row.shrink(amount, power)
    factors = (1 - amount / strengths.pow(power)).clamp_min(0)
    gone = factors == 0
    assert gone.any()
    assert not gone.all()
    for name in ("norm", "norm_b"):
        old, new = before[f"{name}.bias"], getattr(net, name).bias
        torch.testing.assert_close(
            getattr(net, name).weight.detach(), before[f"{name}.weight"] * factors
        )
        torch.testing.assert_close(new.detach(), torch.where(old > 0, old * factors, old))
        assert (old < 0).any()
    assert torch.equal(row.strengths() == 0, gone)


def test_a_channel_that_has_vanished_puts_out_zeros() -> None:
    case = relaxed(Residual, row_groups="all")
    case.vanish({(ROWS, "stem"): torch.arange(8) > 2})
    seen = []
    hook = case.network.c.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    case.outputs()
    hook.remove()
    assert not seen[0][:, :3].any()
    assert seen[0][:, 3:].any()


def test_rows_of_a_shared_axis_touch_their_own_entries_alone() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1)
            self.norm, self.c = nn.BatchNorm2d(10), nn.Conv2d(10, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            joined = torch.cat([self.a(x), self.b(x)], 1)
            return self.c(F.relu(self.norm(joined))).mean((2, 3))

    torch.manual_seed(0)
    model = Joined().eval()
    row, _ = learned(model, "b")
    row.keep(torch.zeros(6).bool())
    assert model.norm.weight.tolist() == [1.0] * 4 + [0.0] * 6
    assert not row.strengths().any()
    other, _ = learned(model, "a")
    assert other.strengths().all()


def test_rows_of_filters_take_whatever_follows() -> None:
    model = Chain(nn.Sigmoid(), trained_norm(), bias=True).eval()
    groups = capture(model, INPUTS).groups
    rows = filter_rows(model, groups)
    assert [row.group.name for row in rows] == ["a"]
    assert parts(model, rows[0]) == {"a.weight": False, "a.bias": False}
    assert not rows[0].silent
    norms = model.a.weight.detach().flatten(1).square().sum(1) + model.a.bias.detach().square()
    torch.testing.assert_close(rows[0].strengths(), (norms / norms.sum()).sqrt())


def test_rows_of_a_block_are_rows_of_its_coefficients() -> None:
    case = relaxed(Residual, row_parts="filters", form="plain", row_groups="all")
    found = set().union(*(parts(case.network, row) for row in case.relaxation.rows.values()))
    assert {"a.last.weight", "b.last.weight", "stem.weight"} <= found
    assert "a.weight" not in found
    with torch.no_grad():
        torch.testing.assert_close(case.outputs(), case.model(images()), rtol=1e-4, atol=1e-4)
