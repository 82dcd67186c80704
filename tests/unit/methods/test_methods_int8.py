"""The int8 method on a network of a few layers, with trainings that are given."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from lissom.clock import TimeRatio
from lissom.errors import BudgetError, LissomError, RecipeError
from lissom.export.rounded_network import RoundedNetwork
from lissom.extension import Companion, ModelView, StepState
from lissom.graph.folding import foldable
from lissom.methods.int8 import Int8
from lissom.methods.int8_options import Int8Options
from lissom.methods.range_tuning import RangeTuning
from lissom.packed.network import packed_network, stored_state
from lissom.plan.budget import Budget
from lissom.plan.build import build
from lissom.plan.fold import FoldBatchNorm
from lissom.plan.plan import Plan
from lissom.plan.quantize import Quantize
from lissom.plan.round_activations import RoundActivations
from method_samples import Small, applied, batches_of, seeded, small_view, view_of

LAYERS = {"stem", "a", "b", "c", "head"}
FREE = Budget()
UNTRAINED = Int8Options(epochs=0, calibration_images=16)


def budget(text: str) -> Budget:
    return Budget.parse(text)


def training(step: Callable[[RoundedNetwork], None]) -> Callable[..., Mapping[str, Any]]:
    """Give a trainer that does one thing to the network."""

    def train(model: nn.Module, companion: Companion, *, rate_factor: float = 1.0) -> Any:
        assert isinstance(model, RoundedNetwork)
        assert isinstance(companion, RangeTuning)
        assert list(companion.learns()) == [one.shift for one in model.learned_ranges()]
        step(model)
        return {"epochs": [], "rate_factor": rate_factor}

    return train


def last(decisions: tuple[Any, ...]) -> RoundActivations:
    assert isinstance(decisions[-1], RoundActivations)
    return decisions[-1]


def test_without_training_weights_are_rounded_and_ranges_observed() -> None:
    view = small_view()
    proposal = Int8(UNTRAINED).plan(view, FREE)
    levels = {one.layer: one for one in proposal.plan.decisions if isinstance(one, Quantize)}
    assert levels.keys() == LAYERS == set(last(proposal.plan.decisions).layers)
    assert {one.bits for one in levels.values()} == {8}
    network = applied(view, proposal)
    for name in LAYERS:
        weight = network.get_parameter(f"{name}.weight")
        gap = (weight - view.model.get_parameter(f"{name}.weight")).flatten(1).abs().mean(1)
        assert bool((gap <= weight.flatten(1).abs().amax(1) / 254).all())
    assert proposal.training is None
    assert proposal.settled
    assert proposal.evidence["not_tuned"] == []
    assert proposal.evidence["harm"] < 1e-2
    tried = proposal.evidence["harm_by_estimator"]
    assert tried[proposal.evidence["estimator"]] == min(tried.values())


def levelled(**options: Any) -> ModelView:
    """Give a network of which two layers have levels, as a plan before it says."""
    view = small_view()
    with torch.no_grad():
        for name in ("stem", "a"):
            weight = view.model.get_parameter(f"{name}.weight")
            weight.copy_((weight / weight.abs().max() * 5).round() * 0.03125)
    named = tuple(Quantize(name, 4, 10, channel_scales=False) for name in ("stem", "a", "b"))
    return replace(view, base=Plan(named), **options)


def test_levels_of_a_stage_before_stay_and_nothing_is_trained() -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("nothing is left to train")

    view = levelled(train=refuse)
    proposal = Int8(Int8Options(calibration_images=16)).plan(view, FREE)
    assert proposal.evidence["kept_levels"] == ["a", "stem"]  # what b was named for is gone
    rounded = {one.layer for one in proposal.plan.decisions if isinstance(one, Quantize)}
    assert rounded == {"b", "c", "head"}
    assert set(last(proposal.plan.decisions).layers) == LAYERS
    network = applied(view, proposal)
    for name in LAYERS:
        same = torch.equal(
            network.get_parameter(f"{name}.weight"), view.model.get_parameter(f"{name}.weight")
        )
        assert same == (name in ("stem", "a"))


def test_bits_that_are_asked_for_round_levels_again() -> None:
    view = levelled()
    settings = Int8Options(epochs=0, weight_bits=2, calibration_images=16)
    evidence = Int8(settings).plan(view, FREE).evidence
    assert evidence["kept_levels"] == []


def test_the_decision_that_is_foreseen_takes_the_room_of_the_one_to_come() -> None:
    view = small_view()
    method = Int8(UNTRAINED)
    decisions = method.plan(view, FREE).plan.decisions

    def size(*some: Any) -> int:
        return len(packed_network(stored_state(view.model), Plan(some)).content)

    foreseen = size(*method.foreseen(view).decisions)
    assert size(decisions[-1]) <= foreseen <= size(decisions[-1]) + 60
    # A stage between that folds batch norms gives the file's tensors other names.
    norms = foldable(view.model, view.example_inputs)
    assert norms
    folded = build(view.model, Plan(tuple(FoldBatchNorm(*one) for one in norms.items())))
    later = method.plan(replace(view, model=folded.eval()), FREE).plan.decisions
    assert size(later[-1]) <= foreseen


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, ()),
        ({"epochs": 0, "keep_float": 1}, ()),
        (
            {"epochs": 3, "rate_factor": 0.2, "range_rate": 0.1},
            ("epochs", "rate_factor", "range_rate"),
        ),
    ],
)
def test_options_of_the_tuning_are_named(options: dict[str, Any], named: tuple[str, ...]) -> None:
    assert Int8(Int8Options(**options)).tuning == named


def test_levels_are_not_kept_where_they_may_not_fit() -> None:
    assert Int8().keeps_levels
    assert not Int8(Int8Options(weight_bits=8)).keeps_levels
    assert not Int8(Int8Options(reduce_range=True)).keeps_levels


def test_layers_leave_int8_until_the_drop_is_allowed() -> None:
    view = racing_view()
    bits = Int8Options(epochs=0, weight_bits=4, calibration_images=16)
    lost = Int8(bits).plan(view, FREE).evidence["held_out_drop"]
    assert lost > 2
    proposal = Int8(bits).plan(view, budget(f"max_drop={lost / 2}"))
    evidence = proposal.evidence
    assert evidence["held_out_drop"] <= lost / 2
    assert evidence["float_layers"]
    assert set(evidence["harm_by_layer"]) == LAYERS
    network = applied(view, proposal)
    for name in evidence["float_layers"]:
        kept = network.get_parameter(f"{name}.weight")
        assert torch.equal(kept, view.model.get_parameter(f"{name}.weight"))
    assert LAYERS - set(evidence["float_layers"]) == set(last(proposal.plan.decisions).layers)


def racing_view(**options: Any) -> ModelView:
    """Give a network whose classes race closely, and batches of its own answers."""
    model = seeded(Small)
    inputs = [images for images, _ in batches_of(3, 8, 8, count=4, size=32)]
    with torch.no_grad():
        model.head.bias -= model(torch.cat(inputs)).mean(0)
        batches = [(images, model(images).argmax(1)) for images in inputs]
    return view_of(model, 3, 8, 8, batches=batches, **options)


def test_layers_that_leave_int8_for_quality_must_leave_it_fast_enough() -> None:
    class Clock:
        def nanoseconds(self, layer: nn.Module, input_shape: tuple[int, ...]) -> int:
            return 10_000

        @property
        def plain(self) -> Any:
            return self

        def file_ratio(self, content: bytes, reference: bytes) -> TimeRatio:
            ratio = 0.5 + 0.1 * (5 - content.count(b".weight_int") // 2)
            return TimeRatio(ratio, ratio - 0.01, ratio + 0.01)

    bits = Int8Options(epochs=0, weight_bits=4, calibration_images=16)
    view = racing_view(clock=Clock())
    drop = Int8(bits).plan(view, FREE).evidence["held_out_drop"] / 2
    floats = Int8(bits).plan(view, budget(f"max_drop={drop}")).evidence["float_layers"]
    takes = 0.5 + 0.1 * len(floats)
    kept = Int8(bits).plan(view, budget(f"max_drop={drop},latency={takes}"))
    assert kept.evidence["time_of_original"]["median"] == pytest.approx(takes)
    asked = budget(f"max_drop={drop},latency={takes - 0.09}")
    with pytest.raises(BudgetError, match=f"takes {takes:.2f}"):
        Int8(bits).plan(view, asked)
    # What was trained is not thrown away: the report says it.
    trained = replace(view, train=training(lambda _model: None))
    above = Int8(replace(bits, epochs=None)).plan(trained, asked).above
    assert f"takes {takes:.2f}" in above
    assert "Allow more" not in above


def test_what_tuning_ruins_is_not_taken() -> None:
    def ruin(model: RoundedNetwork) -> None:
        model.network.get_parameter("head.weight").data.neg_()

    options = Int8Options(calibration_images=16)
    found = Int8(options).plan(racing_view(train=training(ruin)), budget("max_drop=10"))
    assert found.evidence["kept"] == "as observed"
    assert found.evidence["held_out_drop"] <= 10


def test_a_drop_that_nothing_keeps_is_refused() -> None:
    view = racing_view(original=racing_view().model)
    view.model.get_parameter("head.weight").data.neg_()
    with pytest.raises(BudgetError, match="max_drop=1 is not kept, whichever layers stay float"):
        Int8(UNTRAINED).plan(view, budget("max_drop=1"))


def test_what_tuning_improves_is_taken() -> None:
    def nearer(model: RoundedNetwork) -> None:
        """Give the network back the weights that were disturbed before."""
        model.network.load_state_dict(small_view().model.state_dict())

    view = small_view(original=small_view().model, train=training(nearer))
    view.model.get_parameter("a.weight").data.mul_(1.3)
    before = {name: value.clone() for name, value in view.model.state_dict().items()}
    found = Int8(Int8Options(calibration_images=16)).plan(view, FREE)
    assert found.evidence["kept"] == "tuned"
    assert found.evidence["harm_tuned"] < found.evidence["harm_observed"]
    assert found.training == {"epochs": [], "rate_factor": 0.1}
    assert all(torch.equal(value, before[name]) for name, value in view.model.state_dict().items())
    weight = applied(view, found).get_parameter("a.weight").detach()
    wanted = small_view().model.get_parameter("a.weight").detach()
    assert float((weight - wanted).abs().mean()) < float(wanted.abs().max()) / 254


def test_ignored_and_kept_layers_stay_float() -> None:
    proposal = Int8(Int8Options(epochs=0, keep_float=2)).plan(
        small_view(ignore=frozenset({"stem"})), FREE
    )
    layers = set(last(proposal.plan.decisions).layers)
    assert "stem" not in layers
    assert len(layers) == 2
    assert "stem" in proposal.evidence["float_layers"]


def test_an_ignored_layer_that_the_file_calls_otherwise_is_named() -> None:
    model = seeded(Small)
    model.tied = nn.Conv2d(16, 16, 1)
    with pytest.raises(RecipeError, match="ignore: tied has another name in the ONNX file"):
        Int8(UNTRAINED).plan(view_of(model, 3, 8, 8, ignore=frozenset({"tied"})), FREE)


def test_tuning_needs_a_trainer() -> None:
    with pytest.raises(LissomError, match="a preview does not do"):
        Int8().plan(small_view(), FREE)


def test_a_network_without_layers_is_refused() -> None:
    view = small_view(ignore=frozenset(LAYERS))
    with pytest.raises(BudgetError, match="no convolution or linear layer is left to round"):
        Int8(UNTRAINED).plan(view, FREE)
    everything = Int8Options(epochs=0, keep_float=5, calibration_images=16)
    with pytest.raises(BudgetError, match="with keep_float=5 no convolution"):
        Int8(everything).plan(small_view(), FREE)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"weight_bits": 1}, "weight_bits=1: expected 2 to 8"),
        ({"activation_bits": 4}, "activation_bits=4: expected 8; ONNX Runtime has no faster"),
        ({"estimator": "median"}, "estimator=median: expected auto, min_max"),
        ({"epochs": -1}, "epochs=-1: expected at least 0"),
        ({"calibration_images": 0}, "calibration_images=0: expected at least 1"),
        ({"rate_factor": 0}, "rate_factor=0: expected more than 0"),
    ],
)
def test_options_are_checked(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Int8Options(**given)


def test_tuning_takes_a_fifth_of_the_epochs() -> None:
    assert [Int8().epochs(run) for run in (0, 1, 5, 6, 30)] == [0, 1, 1, 2, 6]
    assert Int8(Int8Options(epochs=3)).epochs(30) == 3
    assert not Int8(UNTRAINED).trains


def test_ranges_are_stepped_and_resume() -> None:
    def course(tuning: RangeTuning, shift: nn.Parameter, steps: range) -> None:
        optimizer = torch.optim.SGD([shift], lr=0.0)
        for step in steps:
            (shift - 1).square().sum().backward()
            assert not tuning.after_step(StepState(0.0, step, 10, optimizer))

    whole, first, second = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    course(RangeTuning([whole], 0.1), whole, range(10))
    before, after = RangeTuning([first], 0.1), RangeTuning([second], 0.1)
    course(before, first, range(4))
    second.data.copy_(first.data)
    after.load_state_dict(before.state_dict())
    course(after, second, range(4, 10))
    assert torch.equal(second, whole)
    assert after.scalars() == {"range_moved": pytest.approx(float(second.detach().abs().max()))}
