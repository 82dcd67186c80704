from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from torch import nn

from lissom.errors import PlanError
from lissom.plan import plan as plan_module
from lissom.plan.drop_residual import DropResidual
from lissom.plan.fold import FoldBatchNorm
from lissom.plan.keep_channels import AxisCut, KeepChannels
from lissom.plan.low_rank import ChannelSVD, Tucker2
from lissom.plan.merge import Merge
from lissom.plan.plan import Plan, Source, decision_kinds, plan_signature
from lissom.plan.quantize import Quantize
from lissom.plan.round_activations import RoundActivations
from lissom.plan.separable import FilterCP, SpatialSVD, TensorTrain
from lissom.plan.sparse_plus import SparsePlusSVD

PLAN = Plan(
    (
        KeepChannels("a", (AxisCut((0, 2), 3, (("a.weight", 0), ("b.weight", 1))),)),
        Tucker2("b", 1, 2),
        ChannelSVD("c", 3),
        SpatialSVD("e", 4),
        FilterCP("f", 2),
        TensorTrain("g", 2, 5, 3),
        SparsePlusSVD("h", 4, 3),
        DropResidual(("i.one", "i.two"), "i.three"),
        FoldBatchNorm("b.last", "bn"),
        Quantize("b.last", 3, 17, channel_scales=True),
        Merge("c"),
        RoundActivations(("b.last", "pad"), (("x", 0.0, 1.5), ("relu", -0.25, 3.0)), True),
    ),
    Source("lissom:resnet56", (("classes", 10), ("widths", (1, (2, 3))), ("name", None))),
    "ab" * 32,
    (("a.weight", (3, 4)), ("n", ())),
)


def test_round_trip() -> None:
    text = PLAN.to_json()
    assert Plan.from_json(text) == PLAN
    assert text.count("\n") == 2 + len(PLAN.decisions)
    assert Plan.from_json(Plan(()).to_json()) == Plan(())


def test_every_kind_is_in_the_round_trip() -> None:
    assert {type(one) for one in PLAN.decisions} == set(decision_kinds().values())


def test_concatenation_keeps_the_origin() -> None:
    both = PLAN + Plan((ChannelSVD("d", 1),))
    assert both.decisions == (*PLAN.decisions, ChannelSVD("d", 1))
    assert (both.source, both.signature) == (PLAN.source, PLAN.signature)


def test_signature_is_about_names_and_shapes() -> None:
    one, two = nn.Sequential(nn.Linear(2, 3)), nn.Sequential(nn.Linear(2, 3))
    assert plan_signature(one) == plan_signature(two.to("meta"))
    assert plan_signature(one) != plan_signature(nn.Sequential(nn.Linear(3, 2)))
    assert len(plan_signature(one)) == 64
    assert Plan.starting_from(one).signature == plan_signature(one)


def changed(**changes: Any) -> str:
    return json.dumps(json.loads(PLAN.to_json()) | changes)


def with_decision(**fields: Any) -> str:
    return changed(decisions=[fields])


CUT = {"keep": [0], "size": 2, "axes": [["w", 0]], "groups": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"the plan is no JSON .* damaged"),
        ("[]", r"plan: expected an object of fields, got list"),
        ('{"format": 1' + "0" * 5000 + "}", r"no JSON"),
        (changed(format=2), r"format number 2, this version of lissom reads 1"),
        ("{}", r"field 'format' is missing"),
        (changed(extra=1), r"plan: unknown field 'extra'"),
        (changed(signature=1), r"'signature' must be a string, got 1 \(int\)"),
        (changed(decisions={}), r"'decisions' must be a list"),
        (changed(decisions=[1]), r"'decisions\[0\]' must be an object"),
        (changed(source="x"), r"source: expected an object of fields, got str"),
        (
            changed(source={"spec": "x", "arguments": []}),
            r"'arguments' must be an object, got list",
        ),
        (changed(tensors=[1]), r"plan: tensors: expected an object"),
        (changed(tensors={"a": ["3"]}), r"'a\[0\]' must be an integer"),
        (
            with_decision(kind="os.system", layer="ls"),
            r"unknown kind 'os.system'; known are channel_svd",
        ),
        (with_decision(kind=["tucker2"]), r"unknown kind \['tucker2'\]"),
        (with_decision(layer="a"), r"unknown kind None"),
        (
            with_decision(kind="tucker2", layer="a", rank_in=1),
            r"tucker2: field 'rank_out' is missing",
        ),
        (
            with_decision(kind="channel_svd", layer="a", rank=True),
            r"'rank' must be an integer, got True",
        ),
        (
            with_decision(kind="channel_svd", layer="a", rank=1.0),
            r"'rank' must be an integer, got 1.0",
        ),
        (with_decision(kind="channel_svd", layer=3, rank=1), r"'layer' must be a string"),
        (
            with_decision(kind="channel_svd", layer="a", rank=1, x=0),
            r"channel_svd: unknown field 'x'",
        ),
        (
            with_decision(kind="keep_channels", group="g", cuts=[3]),
            r"'cuts\[0\]' must be an object",
        ),
        (
            with_decision(kind="keep_channels", group="g", cuts=[CUT | {"axes": [["w"]]}]),
            r"'axes\[0\]' must be a pair of tensor name and axis",
        ),
        (
            with_decision(kind="keep_channels", group="g", cuts=[CUT | {"keep": [5]}]),
            r"an axis of 2 entries keeps 1",
        ),
    ],
)
def test_what_is_wrong_in_the_file_is_named(text, message) -> None:
    with pytest.raises(PlanError, match=message):
        Plan.from_json(text)


class Foreign(FoldBatchNorm):
    kind = "foreign"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch):
    def install(target: str) -> None:
        entry = EntryPoint("foreign", f"{__name__}:{target}", "lissom.decisions")
        monkeypatch.setattr(EntryPoint, "load", lambda _self: globals()[target])
        monkeypatch.setattr(plan_module, "entry_points", lambda group: [entry])

    decision_kinds.cache_clear()
    yield install
    decision_kinds.cache_clear()


def test_installed_entry_points_add_kinds(installed) -> None:
    installed("Foreign")
    plan = Plan((Foreign("a", "b"),))
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize("target", ["Tucker2", "PLAN"])
def test_entry_points_must_be_new_decisions(installed, target) -> None:
    installed(target)
    with pytest.raises(PlanError, match=r"offers the decision kind 'foreign'; expected a subclass"):
        decision_kinds()
