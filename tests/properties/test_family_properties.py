"""What every family promises: exact at full rank, cost known before, factors that compose."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies_convolutions import ConvolutionCase, convolutions, covariance, seeds
from torch import Tensor, nn

from lissom.lowrank.families import BY_NAME
from lissom.lowrank.family import Family, Ranks
from lissom.plan.build import apply_values, build
from lissom.plan.plan import Plan
from lissom.plan.predict import LayerShape, dense_cost

# torch remarks on its own speed for some of the attributes drawn.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

COMMON = settings(max_examples=25, deadline=None)
FAMILIES = pytest.mark.parametrize("family", BY_NAME.values(), ids=BY_NAME)


def shape_of(case: ConvolutionCase) -> LayerShape:
    with torch.no_grad():
        outputs = case.conv(case.inputs).shape[1:]
    return LayerShape.of(case.conv, tuple(case.inputs.shape[1:]), tuple(outputs))


def shape_for(family: Family, case: ConvolutionCase) -> LayerShape:
    """Give the shape; a case that the family has nothing to divide in is left out."""
    shape = shape_of(case)
    assume(family.name != "sparse_plus_svd" or family.gains(shape))
    return shape


def draw_ranks(data: st.DataObject, family: Family, shape: LayerShape) -> Ranks:
    full = family.full_ranks(shape)
    return family.settle(shape, tuple(data.draw(st.integers(1, rank)) for rank in full))


def built(case: ConvolutionCase, family: Family, factors: dict[str, Tensor], ranks: Ranks):
    network = build(case.network, Plan((family.decision("0", ranks),)))
    values = {f"0.{name}": tensor for name, tensor in factors.items()}
    if case.conv.bias is not None:
        values["0.last.bias"] = case.conv.bias.detach()
    apply_values(network, values)
    return network


def distance(case: ConvolutionCase, network: nn.Module, other: nn.Module) -> float:
    with torch.no_grad():
        return float((network(case.inputs) - other(case.inputs)).abs().max())


def metric_of(case: ConvolutionCase, seed: int | None) -> Tensor | None:
    """Give the covariance of ``seed``, patch-level or channel-level; None for none."""
    if seed is None:
        return None
    size = case.conv.in_channels if seed % 2 else case.conv.weight[0].numel()
    return covariance(size, size // 2 + 1, seed)


@FAMILIES
@COMMON
@given(convolutions(), st.one_of(st.none(), seeds()))
def test_full_rank_is_the_same_function(family, case, whiten) -> None:
    shape = shape_for(family, case)
    ranks = family.settle(shape, family.full_ranks(shape))
    factors = family.factors(case.conv.weight.detach(), ranks, metric_of(case, whiten))
    network = built(case, family, factors, ranks)
    # Double precision; the damped covariance has a condition of up to 1e4 times the size.
    assert distance(case, network, case.network) < 1e-7


@FAMILIES
@COMMON
@given(convolutions(), st.one_of(st.none(), seeds()), st.data())
def test_the_network_computes_what_the_factors_compose_to(family, case, whiten, data) -> None:
    ranks = draw_ranks(data, family, shape_for(family, case))
    factors = family.factors(case.conv.weight.detach(), ranks, metric_of(case, whiten))
    network = built(case, family, factors, ranks)
    dense = family.compose(factors)
    assert dense.shape == case.conv.weight.shape
    with torch.no_grad():
        case.conv.weight.copy_(dense)
    assert distance(case, network, case.network) < 1e-9


def count_macs(model: nn.Module, inputs: Tensor) -> int:
    """Count by hooks: outputs x weights per output."""
    total = 0

    def add(module: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal total
        total += output[0].numel() * module.weight[0].numel()

    hooks = [m.register_forward_hook(add) for m in model.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        model(inputs[:1])
    for hook in hooks:
        hook.remove()
    return total


@FAMILIES
@COMMON
@given(convolutions(), st.data())
def test_cost_is_the_counted_one(family, case, data) -> None:
    shape = shape_for(family, case)
    ranks = draw_ranks(data, family, shape)
    network = build(case.network, Plan((family.decision("0", ranks),)))
    cost = family.cost(shape, ranks)
    assert cost.macs == count_macs(network, case.inputs)
    assert cost.params == sum(p.numel() for p in network.parameters())
    assert cost.bits == 32 * cost.params


@FAMILIES
@COMMON
@given(convolutions(most=12), st.sampled_from(["macs", "params"]))
def test_break_even_is_the_boundary(family, case, unit) -> None:
    shape = shape_for(family, case)
    dense = getattr(dense_cost(shape), unit)
    found = family.break_even(shape, unit)
    full = family.full_ranks(shape)
    if found is None:
        assert getattr(family.cost(shape, (1,) * len(full)), unit) >= dense
        return
    assert getattr(family.cost(shape, found), unit) < dense
    if family.name == "tensor_train":  # whose middle rank, in proportion, the others may bind
        return
    more = family.settle(shape, tuple(min(r + 1, top) for r, top in zip(found, full, strict=True)))
    assert more == found or getattr(family.cost(shape, more), unit) >= dense


@FAMILIES
@COMMON
@given(convolutions(most=12), st.floats(0.05, 1.0), st.sampled_from(["macs", "params"]))
def test_ranks_within_a_limit_keep_it_and_can_not_all_grow(family, case, share, unit) -> None:
    shape = shape_for(family, case)
    limit = int(share * getattr(dense_cost(shape), unit))
    found = family.within(shape, limit, unit)
    full = family.full_ranks(shape)
    if found is None:
        assert getattr(family.cost(shape, (1,) * len(full)), unit) > limit
        return
    assert getattr(family.cost(shape, found), unit) <= limit
    if family.name == "tensor_train":  # whose middle rank, in proportion, the others may bind
        return
    more = family.settle(shape, tuple(min(r + 1, top) for r, top in zip(found, full, strict=True)))
    assert more == found or getattr(family.cost(shape, more), unit) > limit


@FAMILIES
def test_the_oracles_notice_a_wrong_factor_and_a_wrong_cost(family) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 3, stride=2, padding=1, dtype=torch.float64)
    case = ConvolutionCase(conv, torch.randn(1, 3, 7, 7, dtype=torch.float64))
    shape = shape_of(case)
    ranks = family.settle(shape, family.full_ranks(shape))
    factors = family.factors(conv.weight.detach(), ranks)
    factors["first.weight"][0, 0] += 0.1
    network = built(case, family, factors, ranks)
    assert distance(case, network, case.network) > 1e-4
    # Output x stride is the wrong input size where sizes are odd.
    guessed = LayerShape.of(conv, (3, 8, 8), (4, 4, 4))
    if family.name not in ("channel_svd", "sparse_plus_svd"):  # work at the output's size alone
        assert family.cost(guessed, ranks).macs != count_macs(network, case.inputs)
