"""AJC as a method: its settings, the smallest file, and what it proposes."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from lissom.errors import BudgetError, LissomError, RecipeError
from lissom.methods.ajc import Ajc
from lissom.methods.ajc_settings import AjcSettings
from lissom.methods.forming import Forming
from lissom.packed.network import packed_network
from lissom.plan.budget import Budget
from lissom.plan.plan import Plan
from lissom.quantization.levelled import Levelled
from lissom.task import Classification, Data
from lissom.train.loop import train
from lissom.train.recalibrate import recalibrate
from lissom.train.settings import TrainSettings
from method_samples import applied, seeded, view_of

SHAPE = (3, 8, 8)
SETTINGS = TrainSettings(
    epochs=8,
    learning_rate=0.01,
    warmup_steps=2,
    precision="32",
    device="cpu",
    channels_last="no",
    distillation=0.5,
)


class Net(nn.Module):
    """Folded norms, one that can't be folded, a residual sum, and a classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(24)
        self.deep = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.wide = nn.Conv2d(24, 24, 1, bias=False)
        self.after = nn.BatchNorm2d(24)
        self.head = nn.Linear(24, 4)

    def forward(self, x):
        x = torch.relu(self.bn(self.stem(x)))
        x = self.after(x + self.wide(torch.relu(self.deep(x))))
        return self.head(torch.relu(x).mean((2, 3)))


QUICK = AjcSettings(weighings=4)


def batches():
    """Four classes that a colour and a place tell."""
    generator = torch.Generator().manual_seed(3)
    targets = torch.arange(64) % 4
    images = 0.3 * torch.randn(64, *SHAPE, generator=generator)
    for image, target in zip(images, targets, strict=True):
        image[target % 3, :, : 4 + target] += 1.0
    return [(images[i : i + 16], targets[i : i + 16]) for i in range(0, 64, 16)]


@pytest.fixture(scope="module")
def trained():
    model = seeded(Net)
    sets = Data(batches(), batches(), batches(), batches())
    train(model, sets, Classification(), dataclasses.replace(SETTINGS, epochs=30))
    return model.eval()


def view(model, **options):
    looked = view_of(model, *SHAPE, batches=batches(), **options)
    factors = []

    def train_with(network, companion, rate_factor):
        factors.append(rate_factor)
        train(network, looked.data, looked.task, SETTINGS, teacher=model, companion=companion)
        return {"rate_factors": tuple(factors)}

    def fresh(network):
        recalibrate(network, looked.data, looked.task, SETTINGS)

    return dataclasses.replace(looked, train=train_with, recalibrate=fresh, score=accuracy)


def accuracy(model):
    with torch.no_grad():
        hits = [(model(x).argmax(1) == y).float() for x, y in batches()]
    return float(torch.cat(hits).mean())


def file_bytes(looked, proposal):
    plan = Plan.starting_from(looked.model) + proposal.plan
    return len(packed_network(proposal.values, plan).content)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"start_bits": 0}, "start_bits=0: expected 1 to 8"),
        ({"rate_factor": 0.0}, "rate_factor=0.0: expected a finite number above 0"),
        ({"rate_factor": float("inf")}, "rate_factor=inf: expected a finite number above 0"),
        ({"quantizer_rate": -1.0}, "quantizer_rate=-1.0: expected a finite number above 0"),
        ({"quantizer_rate": float("nan")}, "quantizer_rate=nan: expected a finite number above 0"),
        (
            {"start": "plain", "ramp_end": 0.9},
            "ramp_end=0.9, hold_at=0.85: expected 0 <= ramp_start < ramp_end <= hold_at < 1",
        ),
        ({"hold_at": 1.0}, "hold_at=1.0: expected 0 <= ramp_start < hold_at < 1"),
        ({"weighings": 0}, "weighings=0: expected 1 or more"),
        ({"steer_every": 0}, "steer_every=0: expected 1 or more"),
    ],
)
def test_wrong_settings_are_refused_by_name(wrong, message):
    with pytest.raises(RecipeError, match=message):
        AjcSettings(**wrong)


def test_levels_may_be_held_as_early_as_one_likes():
    assert AjcSettings(hold_at=0.3).phases().hold == 0.3
    assert AjcSettings(ramp_start=0.6).phases().start == 0.6
    assert AjcSettings().phases().end == 0.5
    assert AjcSettings(start="plain", ramp_end=0.2, hold_at=0.3).phases().end == 0.2


# For every setting with its ways: a value, and settings under which it changes nothing.
WITHOUT_EFFECT = [
    ("price", "binary_entropy", {"mode": "post_training"}),
    ("order", "prune_then_quantize", {"mode": "post_training"}),
    ("allocation", "uniform", {"mode": "post_training"}),
    ("start", "plain", {"mode": "post_training"}),
    ("start_bits", 3, {"mode": "post_training"}),
    ("start_bits", 3, {}),
    ("rate_factor", 1.0, {"mode": "post_training"}),
    ("quantizer_rate", 0.01, {"mode": "post_training"}),
    ("quantizer_rate", 0.01, {"allocation": "uniform"}),
    ("ramp_start", 0.1, {"mode": "post_training"}),
    ("ramp_end", 0.4, {}),
    ("hold_at", 0.9, {"mode": "post_training"}),
    ("steer_every", 5, {"mode": "post_training"}),
    ("weighings", 3, {"mode": "post_training"}),
    ("statistics_images", 64, {"start": "plain"}),
    ("statistics_images", 64, {"order": "prune_then_quantize"}),
]


@pytest.mark.parametrize(("name", "value", "others"), WITHOUT_EFFECT)
def test_settings_that_change_nothing_are_refused(name, value, others):
    default = getattr(AjcSettings(), name)
    pattern = (
        rf"^{name}={value!r}: has no effect with (mode|start|order|allocation)=\w+; expected its "
        rf"default, {default!r}: leave it out, or set (mode=|start=post_training)"
    )
    with pytest.raises(RecipeError, match=pattern):
        AjcSettings(**{name: value}, **others)
    AjcSettings(**{name: default}, **others)


def test_every_setting_but_the_mode_has_its_ways():
    names = {field.name for field in dataclasses.fields(AjcSettings)}
    assert {name for name, _, _ in WITHOUT_EFFECT} == names - {"mode"}


@pytest.mark.parametrize(
    "fine",
    [
        {"mode": "post_training", "statistics_images": 0},
        {"start": "plain", "start_bits": 3, "ramp_end": 0.4},
        {"allocation": "uniform", "start_bits": 3},
        {"order": "prune_then_quantize", "ramp_end": 0.4, "quantizer_rate": 0.01},
        {"rate_factor": 1.0, "statistics_images": 0},
    ],
)
def test_settings_that_change_something_are_taken(fine):
    settings = AjcSettings(**fine)
    assert all(getattr(settings, name) == value for name, value in fine.items())


def test_a_preview_can_not_decide(trained):
    with pytest.raises(LissomError, match="preview"):
        Ajc(QUICK).plan(view_of(trained, *SHAPE), Budget.parse("size=8x"))


def test_a_budget_of_something_else_is_refused(trained):
    with pytest.raises(BudgetError, match="size=25x, size=40kB or max_drop"):
        Ajc(QUICK).plan(view(trained), Budget.parse("macs=0.5"))


def test_the_file_is_as_small_as_asked_and_says_what_the_network_computes(trained):
    looked = view(trained)
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    whole = 4 * looked.graph.cost.params
    smallest = Ajc().smallest(looked)
    limit = smallest.bits // 8 + whole // 25
    proposal = Ajc(QUICK).plan(looked, Budget.parse(f"size={limit}B"))
    assert all(torch.equal(trained.state_dict()[n], t) for n, t in before.items())
    size = file_bytes(looked, proposal)
    assert 0.9 * limit < size <= limit
    assert proposal.predicted.bits == 8 * size
    assert proposal.settled
    assert proposal.training == {"rate_factors": (AjcSettings().rate_factor,)}
    network = applied(looked, proposal)
    kinds = [type(decision).__name__ for decision in proposal.plan.decisions]
    assert kinds == ["FoldBatchNorm"] + 4 * ["Quantize"]
    assert proposal.evidence["folded"] == {"stem": "bn"}
    for name, layer in proposal.evidence["layers"].items():
        weight = network.get_submodule(name).weight
        assert float((weight != 0).float().mean()) == pytest.approx(layer["density"])
    # Rounding scales and biases hardly changes what was trained.
    assert accuracy(network) >= proposal.evidence["accuracy_before_hardening"] - 0.05
    assert accuracy(network) > 0.8


def test_smaller_than_everything_but_the_weights_is_refused(trained):
    looked = view(trained)
    least = Ajc().smallest(looked).bits // 8
    with pytest.raises(BudgetError, match="bytes without any weight"):
        Ajc(QUICK).plan(looked, Budget.parse(f"size={least - 200}B"))


def test_the_smallest_file_that_keeps_the_quality(trained):
    looked = view(trained)
    proposals = {
        drop: Ajc(QUICK).plan(looked, Budget.parse(f"max_drop={drop}")) for drop in (1.0, 40.0)
    }
    sizes = {drop: file_bytes(looked, proposal) for drop, proposal in proposals.items()}
    assert sizes[40.0] < sizes[1.0]
    for drop, proposal in proposals.items():
        lost = 100 * (accuracy(trained) - accuracy(applied(looked, proposal)))
        assert proposal.evidence["held_out_drop"] == pytest.approx(lost, abs=1e-4)
        assert lost <= drop


def test_of_two_that_keep_the_quality_the_smaller_is_taken(trained, monkeypatch):
    """Training that makes the file larger, as it may where little may be lost."""
    looked = view(trained)
    made = {}
    wished = Forming.wished

    def noted(self, relaxed, levels, wish):
        if any(parametrize.is_parametrized(module) for module in relaxed.modules()):
            levels = made.get("finer", levels)
        form = wished(self, relaxed, levels, wish)
        made.setdefault("sizes", []).append(len(self.packed(form).content))
        return form

    monkeypatch.setattr(Forming, "wished", noted)
    budget = Budget.parse("max_drop=5")
    kept = Ajc(QUICK).plan(looked, budget)
    trained_size, untrained_size = made["sizes"]
    assert file_bytes(looked, kept) == min(trained_size, untrained_size)
    said = kept.evidence.get("kept")
    assert said == ("levels without training" if untrained_size < trained_size else None)
    made.clear()
    steps = {name: module.weight.abs().max() / 127 for name, module in quantized_of(trained)}
    made["finer"] = {
        name: Levelled((module.weight / steps[name]).round().int(), steps[name].detach())
        for name, module in quantized_of(trained)
    }
    monkeypatch.setattr(Forming, "as_small_as", lambda self, net, levels, _ok: self.of(net, levels))
    finer = Ajc(QUICK).plan(looked, budget)
    assert made["sizes"][0] > made["sizes"][1] == file_bytes(looked, finer)
    assert finer.evidence["kept"] == "levels without training"


def quantized_of(model):
    return [(name, model.get_submodule(name)) for name in ("stem", "deep", "wide", "head")]


def test_a_training_that_diverges_says_so_with_the_layer_and_when(trained):
    looked = view(trained)

    def diverges(network, companion, rate_factor):
        del rate_factor
        weight = network.wide.parametrizations.weight.original
        weight.register_hook(lambda grad: torch.full_like(grad, float("nan")))
        train(network, looked.data, looked.task, SETTINGS, companion=companion)

    message = r"epoch 1, step \d: wide: its weights .* the training diverged; try a smaller"
    with pytest.raises(LissomError, match=message):
        Ajc(QUICK).plan(dataclasses.replace(looked, train=diverges), Budget.parse("size=5x"))


def test_losses_count_from_the_original_of_the_run(trained):
    looked = view(trained)
    worse = seeded(Net)
    fair = Ajc(QUICK).plan(dataclasses.replace(looked, original=trained), Budget.parse("size=5x"))
    other = Ajc(QUICK).plan(dataclasses.replace(looked, original=worse), Budget.parse("size=5x"))
    gap = 100 * (accuracy(trained) - accuracy(worse.eval()))
    assert gap > 10
    assert fair.evidence["held_out_drop"] - other.evidence["held_out_drop"] == pytest.approx(
        gap, abs=1e-3
    )


def test_ignored_layers_keep_their_weights(trained):
    looked = view(trained, ignore=frozenset({"head"}))
    proposal = Ajc(QUICK).plan(looked, Budget.parse("size=5x"))
    assert proposal.evidence["left_alone"] == {"head": "ignored"}
    assert "head" not in {decision.target for decision in proposal.plan.decisions}
    assert len(applied(looked, proposal).head.weight.unique()) > 40


def test_where_nothing_can_be_quantized_the_reasons_are_said(trained):
    looked = view(trained, ignore=frozenset({"stem", "deep", "wide", "head"}))
    with pytest.raises(BudgetError, match="no layer to quantize: stem: ignored; deep: ignored"):
        Ajc(QUICK).plan(looked, Budget.parse("max_drop=1"))


def test_the_predicted_cost_is_the_one_that_is_measured(trained):
    proposal = Ajc(AjcSettings(mode="post_training")).plan(view(trained), Budget.parse("size=5x"))
    network = applied(view(trained), proposal)
    assert proposal.predicted.params == sum(p.numel() for p in network.parameters())
    assert proposal.training is None
