"""What the method believes of a configuration against the network that is really built."""

from __future__ import annotations

import random
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies_networks import RandomNet, networks
from torch import Tensor, nn

from lissom.graph.capture import capture
from lissom.graph.layers import ModelGraph
from lissom.graph.offers import decomposable_layers
from lissom.graph.replay import Replay
from lissom.methods.weights import WeightMath, plain_layers
from lissom.models.catalog import build_model
from lissom.pruning.cut import admissible_counts, choose_kept
from lissom.pruning.reconstruct import output_error
from lissom.search.price import Configuration, LowRank, Pricer
from lissom.sensitivity.measure import Candidate, measure
from lissom.sensitivity.statistics import input_covariances
from lissom.task import Classification
from method_samples import Small, batches_of, built, seeded

few = settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
sizes = st.sampled_from([(7, 9), (8, 8), (11, 6)])


def random_cuts(graph: ModelGraph, draw: random.Random) -> dict[str, tuple[int, ...]]:
    kept = {}
    for group in graph.groups:
        if group.frozen_because is None and draw.random() < 0.7:
            count = draw.choice(admissible_counts(group, 1))
            scores = torch.tensor([draw.random() for _ in range(group.channels)])
            kept[group.name] = choose_kept(scores, count, group)
    return kept


def random_ranks(
    model: nn.Module, graph: ModelGraph, pricer: Pricer, cut: Configuration, draw: random.Random
) -> dict[str, LowRank]:
    ranks = {}
    for layer in sorted(decomposable_layers(graph)):
        inputs, outputs = pricer.channels(layer, cut)
        width = inputs * pricer.shapes[layer].kernel
        if draw.random() < 0.5:
            continue
        if isinstance(model.get_submodule(layer), nn.Conv2d) and draw.random() < 0.5:
            pair = draw.randint(1, inputs), draw.randint(1, outputs)
            ranks[layer] = LowRank("tucker2", pair)
        else:
            ranks[layer] = LowRank("channel_svd", (draw.randint(1, min(width, outputs)),))
    return ranks


def math_of(model: nn.Module, graph: ModelGraph, batches, **options) -> WeightMath:
    layers = plain_layers(model, graph)
    covariances = input_covariances(model, layers, batches, Classification(), 64)
    return WeightMath(model, graph, covariances, **options)


def output_of(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images)


@given(networks(), sizes, st.integers(0, 1000))
@few
def test_price_is_the_cost_measured_on_the_built_network(model, size, seed):
    draw = random.Random(seed)
    example = (torch.zeros(1, 3, *size),)
    graph = capture(model, example)
    pricer = Pricer(model, graph)
    kept = random_cuts(graph, draw)
    low_rank = random_ranks(model, graph, pricer, Configuration(kept), draw)
    configuration = Configuration(kept, low_rank)
    network = built(model, *WeightMath(model, graph, {}).realise(configuration))
    now = capture(network, example)
    assert pricer.price(configuration) == now.cost
    costs = {layer.name: layer.cost for layer in now.layers}
    for name, cost in pricer.by_layer(configuration).items():
        parts = [c for n, c in costs.items() if n == name or n.startswith(f"{name}.")]
        if name in low_rank:
            assert cost.macs == sum(part.macs for part in parts)
            assert cost.params == sum(part.params for part in parts)
        else:
            assert cost == costs[name]


def test_the_price_of_another_configuration_differs():
    model = seeded(lambda: RandomNet([("conv", 8), ("grouped", 8)], flatten=True))
    graph = capture(model, (torch.zeros(1, 3, 7, 9),))
    pricer = Pricer(model, graph)
    group = next(g for g in graph.groups if g.frozen_because is None and not g.balance)
    prices = {
        pricer.price(Configuration({group.name: tuple(range(n))})).macs
        for n in range(1, group.channels + 1)
    }
    assert len(prices) == group.channels


def difference(model: nn.Module, draw: random.Random, *, covered: bool) -> float:
    """Compare overridden weights with the really cut network, relative to its outputs."""
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    graph = capture(model, (images[:1],))
    batches = batches_of(3, 8, 8, count=1)
    weights = math_of(model, graph, batches) if covered else WeightMath(model, graph, {})
    exact = {group.name for group in graph.groups if group.exact}
    kept = {name: one for name, one in random_cuts(graph, draw).items() if name in exact}
    replay = Replay(model, (images,))
    replay.record((images,))
    masked = replay.run(weights.pruned(kept))
    network = built(model, *weights.realise(Configuration(kept)))
    real = output_of(network, images)
    scale = float(real.abs().max()) + 1e-3
    return float((masked - real).abs().max()) / scale


@given(networks(), st.integers(0, 1000), st.booleans())
@few
def test_overrides_imitate_the_cut(model, seed, covered):
    # float32 sums in another order
    assert difference(model, random.Random(seed), covered=covered) < 1e-3


@given(networks(), st.integers(0, 1000))
@few
def test_overrides_imitate_the_decomposition(model, seed):
    draw = random.Random(seed)
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    graph = capture(model, (images[:1],))
    pricer = Pricer(model, graph)
    weights = math_of(model, graph, batches_of(3, 8, 8, count=1))
    ranks = random_ranks(model, graph, pricer, Configuration(), draw)
    replay = Replay(model, (images,))
    replay.record((images,))
    dense = {f"{layer}.weight": weights.decomposed(layer, rank) for layer, rank in ranks.items()}
    real = output_of(built(model, *weights.realise(Configuration({}, ranks))), images)
    torch.testing.assert_close(
        replay.run(dense), real, rtol=1e-3, atol=1e-3 * float(real.abs().max()) + 1e-5
    )


def test_the_imitation_check_notices_other_weights(monkeypatch):
    model, right = seeded(Small), WeightMath.pruned
    assert difference(model, random.Random(1), covered=False) < 1e-3
    monkeypatch.setattr(
        WeightMath, "pruned", lambda self, kept: {n: 0.9 * w for n, w in right(self, kept).items()}
    )
    assert difference(model, random.Random(1), covered=False) > 1e-2


@pytest.fixture(scope="module")
def resnet():
    model = seeded(lambda: build_model("lissom:resnet20"))
    return model, capture(model, (torch.zeros(1, 3, 32, 32),))


def test_harm_by_masks_equals_harm_of_ten_really_cut_networks(resnet):
    model, graph = resnet
    batches, task = batches_of(3, 32, 32, count=2, size=8), Classification()
    weights = math_of(model, graph, batches)
    free = [group for group in graph.groups if group.frozen_because is None]
    assert len(free) >= 10
    draw = random.Random(0)
    candidates, networks_cut = [], []
    for group in free[:10]:
        count = draw.choice([n for n in admissible_counts(group, 1) if n < group.channels])
        scores = torch.rand(group.channels, generator=torch.Generator().manual_seed(count))
        kept = {group.name: choose_kept(scores, count, group)}
        candidates.append(Candidate(group.name, "prune", 0.5, weights.pruned(kept)))
        networks_cut.append(built(model, *weights.realise(Configuration(kept))))
    harms = measure(model, candidates, batches, task, images=16)
    for network, harm in zip(networks_cut, harms.mean, strict=True):
        distances = [
            float(task.distance(output_of(network, images), output_of(model, images)))
            for images, _ in batches
        ]
        assert harm == pytest.approx(sum(distances) / 2, rel=1e-4, abs=1e-4)
    assert max(harms.mean) > 1e-2  # a comparison of zeros would say nothing
    assert harms.mean[0] != pytest.approx(harms.mean[1], abs=1e-4)


SCALED = batches_of(3, 8, 8, count=1, size=32)


@cache
def small_graph() -> ModelGraph:
    return capture(seeded(Small), (torch.zeros(1, 3, 8, 8),))


@given(st.integers(0, 1000), st.sampled_from(["tucker2", "channel_svd"]))
@few
def test_whitened_factors_never_err_more_in_the_output(seed, family):
    draw = random.Random(seed)
    model = seeded(Small, seed)
    graph = small_graph()
    batches = [(images * torch.tensor([4.0, 1, 0.2])[:, None, None], y) for images, y in SCALED]
    plain = math_of(model, graph, batches, whiten=False)
    white = WeightMath(model, graph, plain.covariances)
    layer = draw.choice(["stem", "a", "b", "c"])
    weight = plain.weight(layer)
    pair = draw.randint(1, weight.shape[1] - 1), draw.randint(1, weight.shape[0] - 1)
    low_rank = LowRank(family, pair if family == "tucker2" else pair[1:])
    errors = [
        output_error(weight, one.decomposed(layer, low_rank), plain.covariances[layer])
        for one in (white, plain)
    ]
    # Whitening damps the covariance a little, so equal factors may differ by that much.
    assert errors[0] <= errors[1] * (1 + 1e-3) + 1e-6
