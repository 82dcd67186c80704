"""Plans survive JSON, whatever they hold; plans of real size stay small."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lissom.plan.decision import Decision
from lissom.plan.drop_residual import DropResidual
from lissom.plan.fold import FoldBatchNorm
from lissom.plan.keep_channels import AxisCut, KeepChannels
from lissom.plan.low_rank import ChannelSVD, Tucker2
from lissom.plan.merge import Merge
from lissom.plan.plan import Plan, Source, decision_kinds
from lissom.plan.quantize import Quantize
from lissom.plan.round_activations import RoundActivations
from lissom.plan.separable import FilterCP, SpatialSVD, TensorTrain
from lissom.plan.sparse_plus import SparsePlusSVD

NAMES = st.text(max_size=12)  # any Unicode: a file must not care
NUMBERS = st.integers(-(2**70), 2**70)
PLAIN = (
    st.none() | st.booleans() | NUMBERS | NAMES | st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6)


@st.composite
def cuts(draw: st.DrawFn) -> AxisCut:
    groups, columns = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    keep = draw(st.sets(st.integers(0, groups * columns - 1), min_size=1))
    axes = draw(st.lists(st.tuples(NAMES, st.integers(0, 4)), max_size=3))
    return AxisCut(tuple(sorted(keep)), groups * columns, tuple(axes), groups)


KINDS: dict[type[Decision], st.SearchStrategy[Decision]] = {
    KeepChannels: st.builds(KeepChannels, NAMES, st.lists(cuts(), max_size=3).map(tuple)),
    Tucker2: st.builds(Tucker2, NAMES, NUMBERS, NUMBERS),
    ChannelSVD: st.builds(ChannelSVD, NAMES, NUMBERS),
    SpatialSVD: st.builds(SpatialSVD, NAMES, NUMBERS),
    FilterCP: st.builds(FilterCP, NAMES, NUMBERS),
    TensorTrain: st.builds(TensorTrain, NAMES, NUMBERS, NUMBERS, NUMBERS),
    SparsePlusSVD: st.builds(SparsePlusSVD, NAMES, NUMBERS, NUMBERS),
    DropResidual: st.builds(DropResidual, st.lists(NAMES, max_size=3).map(tuple), NAMES),
    FoldBatchNorm: st.builds(FoldBatchNorm, NAMES, NAMES),
    Merge: st.builds(Merge, NAMES),
    Quantize: st.builds(Quantize, NAMES, NUMBERS, NUMBERS, st.booleans()),
    RoundActivations: st.builds(
        RoundActivations,
        st.lists(NAMES, max_size=3).map(tuple),
        st.lists(st.tuples(NAMES, st.floats(-9, 0), st.floats(0, 9)), max_size=3).map(tuple),
        st.booleans(),
    ),
}
PLANS = st.builds(
    Plan,
    st.lists(st.one_of(*KINDS.values()), max_size=5).map(tuple),
    st.none()
    | st.builds(
        Source, NAMES, st.dictionaries(NAMES, VALUES, max_size=3).map(lambda d: tuple(d.items()))
    ),
    NAMES,
    st.dictionaries(NAMES, st.lists(NUMBERS, max_size=4).map(tuple), max_size=3).map(
        lambda d: tuple(d.items())
    ),
)


@settings(max_examples=100, deadline=None)
@given(PLANS)
def test_round_trip_is_equal(plan) -> None:
    assert Plan.from_json(plan.to_json()) == plan


@settings(max_examples=50, deadline=None)
@given(PLANS, PLANS)
def test_concatenation_is_that_of_the_decisions(first, second) -> None:
    assert (first + second).decisions == first.decisions + second.decisions


def test_every_kind_is_drawn() -> None:
    assert set(KINDS) == set(decision_kinds().values())


def test_a_plan_of_the_size_of_resnet_56_is_small() -> None:
    def cut(layer: int) -> KeepChannels:
        consumers = tuple((f"layer2.{layer}.conv{k}.weight", k % 2) for k in range(12))
        return KeepChannels(
            f"layer2.{layer}.conv1", (AxisCut(tuple(range(0, 64, 2)), 64, consumers),)
        )

    shapes = tuple((f"layer3.{k}.bn1.running_mean", (64,)) for k in range(340))
    plan = Plan(
        tuple(cut(layer) for layer in range(60)), Source("lissom:resnet56"), "a" * 64, shapes
    )
    assert len(plan.to_json()) < 300_000
