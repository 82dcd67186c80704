"""What one column or one channel costs."""

import pytest
import torch

from lissom.relaxation.prices import group_weights
from lissom.relaxation.support import COLUMNS, ROWS
from relaxation_samples import Residual, relaxed


def weights_of(case, units=("macs",)):
    strengths = case.relaxation.strengths()
    return group_weights(case.relaxation, strengths, case.relaxation.expected(), units), strengths


def test_a_column_costs_what_it_reads_and_what_it_feeds() -> None:
    weights, strengths = weights_of(relaxed(Residual, learn=("columns",)), ("macs", "params"))
    members = sum(len(v) for v in strengths.values())
    # (inputs x kernel + outputs) x positions
    macs = {"a": 82 * 64, "b": 98 * 64, "c": 84 * 16, "d": 120 * 16, "skip": 20 * 16}
    params = {"a": 82, "b": 98, "c": 84, "d": 120, "skip": 20}
    for unit, prices in (("macs", macs), ("params", params)):
        mean = sum(prices[layer] * len(strengths[COLUMNS, layer]) for layer in prices) / members
        for layer, price in prices.items():
            assert weights[COLUMNS, layer][unit] == pytest.approx(price / mean)


def test_a_channel_costs_all_layers_that_it_touches() -> None:
    weights, strengths = weights_of(relaxed(Residual, learn=("rows",)))
    assert {key: len(v) for key, v in strengths.items()} == {(ROWS, "a"): 10, (ROWS, "c"): 12}
    a, c = (72 + 72) * 64, (72 + 108) * 16
    mean = (10 * a + 12 * c) / 22
    assert weights[ROWS, "a"]["macs"] == pytest.approx(a / mean)
    assert weights[ROWS, "c"]["macs"] == pytest.approx(c / mean)


def test_where_norms_are_penalised_it_is_the_root() -> None:
    energies, _ = weights_of(relaxed(Residual, learn=("rows",)))
    norms, _ = weights_of(relaxed(Residual, learn=("rows",), penalty="norm"))
    ratio = energies[ROWS, "a"]["macs"] / energies[ROWS, "c"]["macs"]
    found = norms[ROWS, "a"]["macs"] / norms[ROWS, "c"]["macs"]
    assert found == pytest.approx(ratio**0.5)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.6])
def test_prices_follow_what_is_left(share) -> None:
    case = relaxed(Residual, row_groups="all")
    generator = torch.Generator().manual_seed(1)
    case.vanish(
        {
            key: torch.rand(len(v), generator=generator) < share
            for key, v in case.relaxation.strengths().items()
        }
    )
    weights, _ = weights_of(case)
    assert all(weight["macs"] > 0 for weight in weights.values())
