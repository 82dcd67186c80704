"""The support of a budget: within it, and such that nothing more fits."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies_convolutions import seeds
from torch import Tensor

from lissom.plan.alignment import aligned_counts
from lissom.plan.cost import Cost
from lissom.relaxation.support import COLUMNS, ROWS, Key, Support, exact_support, within

SPREAD = settings(max_examples=30, deadline=None)


class Chain:
    """Layers in a row: rows are channels between them, columns ranks; prices grow with both."""

    def __init__(self, widths: list[int], seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.widths = widths
        self.positions = torch.randint(1, 50, (len(widths),), generator=generator).tolist()
        self.scores: dict[Key, Tensor] = {}
        for number, width in enumerate(widths):
            for kind in (COLUMNS, ROWS):
                drawn = torch.rand(width, generator=generator)
                drawn[torch.rand(width, generator=generator) < 0.2] = 0.0
                drawn = (drawn * 8).round() / 8  # ties
                self.scores[kind, str(number)] = drawn

    def price(self, support: Support) -> Cost:
        params = macs = 0
        inputs = 3
        for number in range(len(self.widths)):
            rank = int(support.columns[str(number)].sum())
            outputs = int(support.rows[str(number)].sum())
            size = min(rank * (inputs + outputs), inputs * outputs)
            params, macs = params + size, macs + size * self.positions[number]
            inputs = outputs
        return Cost(params, macs, 32 * params)


def counts_of(support: Support) -> dict[Key, int]:
    return {(COLUMNS, n): int(m.sum()) for n, m in support.columns.items()} | {
        (ROWS, n): int(m.sum()) for n, m in support.rows.items()
    }


def masks_of(chain: Chain, counts: dict[Key, int]) -> Support:
    masks = {}
    for key, count in counts.items():
        order = torch.sort(chain.scores[key], descending=True).indices
        masks[key] = torch.zeros(len(order), dtype=torch.bool)
        masks[key][order[:count]] = True
    return Support(
        {name: mask for (kind, name), mask in masks.items() if kind == COLUMNS},
        {name: mask for (kind, name), mask in masks.items() if kind == ROWS},
    )


def least(chain: Chain, admissible) -> Cost:
    return chain.price(masks_of(chain, {key: counts[0] for key, counts in admissible.items()}))


def whole(chain: Chain) -> Cost:
    return chain.price(masks_of(chain, {key: len(v) for key, v in chain.scores.items()}))


chains = st.builds(Chain, st.lists(st.integers(1, 20), min_size=1, max_size=4), seeds())
units = st.sampled_from([("macs",), ("params",), ("macs", "params")])


def solved(chain: Chain, shares: tuple[str, ...], share: float, step: int):
    admissible = {key: aligned_counts(len(v), step) for key, v in chain.scores.items()}
    limits = {unit: int(share * getattr(whole(chain), unit)) for unit in shares}
    return admissible, limits, exact_support(chain.scores, admissible, chain.price, limits)


@SPREAD
@given(chains, units, st.floats(0.02, 1.0), st.sampled_from([1, 4, 8]))
def test_it_meets_the_limits_wherever_that_is_possible(chain, chosen, share, step) -> None:
    admissible, limits, support = solved(chain, chosen, share, step)
    smallest = least(chain, admissible)
    if within(smallest, limits):
        assert within(chain.price(support), limits)
    else:
        assert chain.price(support) == smallest


@SPREAD
@given(chains, units, st.floats(0.02, 1.0), st.sampled_from([1, 4, 8]))
def test_only_admissible_numbers_of_the_best_are_kept(chain, chosen, share, step) -> None:
    admissible, _, support = solved(chain, chosen, share, step)
    for key, count in counts_of(support).items():
        kind, name = key
        mask = (support.columns if kind == COLUMNS else support.rows)[name]
        assert count in admissible[key]
        scores = chain.scores[key]
        if not bool(mask.all()):
            assert scores[mask].min() >= scores[~mask].max()


@SPREAD
@given(chains, units, st.floats(0.02, 1.0), st.sampled_from([1, 4, 8]))
def test_no_single_step_more_fits(chain, chosen, share, step) -> None:
    admissible, limits, support = solved(chain, chosen, share, step)
    counts = counts_of(support)
    if not within(chain.price(support), limits):
        return
    for key, count in counts.items():
        alive = int((chain.scores[key] > 0).sum())
        if count < alive:
            more = next(n for n in admissible[key] if n > count)
            assert not within(chain.price(masks_of(chain, {**counts, key: more})), limits), key


def test_the_threshold_is_one_for_all_layers() -> None:
    scores = {(COLUMNS, "a"): torch.tensor([4.0, 3.0, 1.0]), (COLUMNS, "b"): torch.tensor([2.0])}
    admissible = {key: tuple(range(1, len(v) + 1)) for key, v in scores.items()}

    def price(support: Support) -> Cost:
        return Cost(sum(int(m.sum()) for m in support.columns.values()), 0, 0)

    support = exact_support(scores, admissible, price, {"params": 3})
    assert support.columns["a"].tolist() == [True, True, False]
    assert support.columns["b"].tolist() == [True]


def test_what_is_dead_comes_back_only_where_the_rounding_asks_for_it() -> None:
    scores = {(COLUMNS, "a"): torch.tensor([4.0, 0.0, 1.0, 0.0, 0.0])}

    def price(support: Support) -> Cost:
        return Cost(int(support.columns["a"].sum()), 0, 0)

    free = exact_support(scores, {(COLUMNS, "a"): (1, 2, 3, 4, 5)}, price, {"params": 5})
    assert free.columns["a"].nonzero().flatten().tolist() == [0, 2]
    fours = exact_support(scores, {(COLUMNS, "a"): (4, 5)}, price, {"params": 5})
    assert int(fours.columns["a"].sum()) == 4


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_it_is_as_good_as_any_threshold(share) -> None:
    """Against the search through all levels by hand."""
    chain = Chain([9, 12, 7], 11)
    admissible, limits, support = solved(chain, ("macs",), share, 1)
    levels = sorted({float(v) for scores in chain.scores.values() for v in scores})
    best = None
    for level in itertools.chain([-1.0], levels):
        counts = {key: max(1, int((v > level).sum())) for key, v in chain.scores.items()}
        if within(chain.price(masks_of(chain, counts)), limits):
            best = counts
            break
    assert best is not None
    found = counts_of(support)
    alive = {key: max(1, int((v > 0).sum())) for key, v in chain.scores.items()}
    assert all(found[key] >= min(best[key], alive[key]) for key in best)
    assert admissible.keys() == found.keys()
