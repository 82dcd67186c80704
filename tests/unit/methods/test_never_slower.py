"""What the clock does not pay for is left out; by clocks that never jitter."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from lissom.clock import TimeRatio
from lissom.errors import BudgetError, MeasureError
from lissom.extension import ModelView
from lissom.graph.capture import capture
from lissom.measure.operation import operations_of
from lissom.methods.menu import RankOption
from lissom.methods.never_slower import NeverSlower
from lissom.methods.space import Menu, menu_of
from lissom.relaxation.support import COLUMNS, ROWS
from lissom.search.price import Configuration, LowRank, Pricer
from lissom.task import Classification, Data

START = 20_000  # nanoseconds for every operation, whatever it does


class StartClock:
    """Takes a nanosecond per multiplication, and a start for every operation.

    Odd channel counts take twice as long.
    """

    def __init__(self, ratio=1.0):
        self.found = TimeRatio(ratio, ratio - 0.01, ratio + 0.01)
        self.compared = []

    def nanoseconds(self, layer, input_shape):
        example = torch.empty(1, *input_shape, device="meta")
        return sum(self._one(one) for one in operations_of(layer, (example,)))

    def ratio(self, network, reference):
        self.compared.append((network, reference))
        return self.found

    @staticmethod
    def _one(operation):
        height, width = operation.size
        work = torch.Size(operation.weight_shape).numel() * height * width
        return START + (2 * work if operation.outputs % 2 else work)


class BusyClock(StartClock):
    def nanoseconds(self, layer, input_shape):
        raise MeasureError("the machine is too busy")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.body = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(torch.relu(self.body(torch.relu(self.stem(x)))).mean((2, 3)))


@pytest.fixture
def view():
    model, example = Net().eval(), (torch.randn(1, 3, 8, 8),)
    nothing = Data(*[[]] * 4)
    return ModelView(
        model, capture(model, example), example, Classification(), nothing, clock=StartClock()
    )


def menu(view) -> Menu:
    return menu_of((), {}, Pricer(view.model, view.graph), ("channel_svd",), 1)


def svd(rank: int) -> LowRank:
    return LowRank("channel_svd", (rank,))


def body_options(view):
    """Give every rank of the body's pair, mild ones first."""
    return {"body": tuple(RankOption("channel_svd", (rank / 16,)) for rank in range(13, 0, -1))}


def mildest(rank_of: dict[RankOption, int]):
    """Give a search that takes the mildest option that is left."""

    def solve(menu):
        options = menu.ranks["body"]
        if not options:
            raise BudgetError("nothing is left")
        return options[0]

    return solve, lambda option: Configuration({}, {"body": svd(rank_of[option])})


def paying(view, rank: int) -> bool:
    """Say by hand whether a pair of this rank is as fast as the 16 x 16 layer it stands for."""
    pair = nn.Sequential(nn.Conv2d(16, rank, 3, padding=1), nn.Conv2d(rank, 16, 1))
    one, shape = nn.Conv2d(16, 16, 3, padding=1), (16, 8, 8)
    taken, without = (view.clock.nanoseconds(layer.to("meta"), shape) for layer in (pair, one))
    return taken <= 1.02 * without + 1_000


def test_decompositions_that_cost_time_are_left_out_down_to_the_first_that_pays(view):
    ranks = body_options(view)
    solve, configuration = mildest({o: round(16 * o.fractions[0]) for o in ranks["body"]})
    built = []
    found, facts = NeverSlower.of(view).run(
        replace(menu(view), ranks=ranks),
        solve,
        configuration,
        lambda c: built.append(c) or nn.Identity(),
    )
    rank = round(16 * found.fractions[0])
    assert paying(view, rank)
    assert not paying(view, 13)
    assert facts["left_out"][0]["name"] == "body"
    assert facts["left_out"][0]["counts"] == (13,)
    assert facts["left_out"][0]["microseconds"] > facts["left_out"][0]["without"]
    assert facts["ratio"]["median"] == 1.0
    assert built == [configuration(found)]
    assert view.clock.compared[0][1] is view.model


def only_13(view):
    """Give a menu with one pair, which does not pay, and its search."""
    ranks = {"body": body_options(view)["body"][:1]}
    return replace(menu(view), ranks=ranks), *mildest({ranks["body"][0]: 13})


def test_what_costs_time_is_taken_where_nothing_else_is_within_the_budget(view):
    found, facts = NeverSlower.of(view).run(*only_13(view), lambda _c: nn.Identity())
    assert round(16 * found.fractions[0]) == 13
    assert facts["left_out"] == []
    assert [one["name"] for one in facts["taken_all_the_same"]] == ["body"]


def test_a_refusal_names_the_slow_decisions_and_the_way_out(view):
    slow = replace(view, clock=StartClock(ratio=1.1))
    expected = (
        r"takes 1\.10 \(1\.09 to 1\.11\) of the original's time on this machine; slower than what "
        r"they replace: body \(channel_svd 13: .* without\); without such decisions nothing is left"
        r"\. .*--allow-slower"
    )
    with pytest.raises(BudgetError, match=expected):
        NeverSlower.of(slow).run(*only_13(slow), lambda _c: nn.Identity())


def test_a_set_of_channels_that_costs_time_goes_alone(view):
    group = next(g.name for g in view.graph.groups if "stem" in g.producers)
    cuts = {group: (tuple(range(15)), tuple(range(8)))}
    found, facts = NeverSlower.of(view).run(
        replace(menu(view), cuts=cuts),
        lambda menu: menu.cuts[group][0],
        lambda kept: Configuration({group: kept}),
        lambda _c: nn.Identity(),
    )
    assert found == tuple(range(8))
    assert [(one["name"], one["counts"]) for one in facts["left_out"]] == [(group, (15,))]


def test_a_network_that_is_slower_as_a_whole_is_refused(view):
    slow = replace(view, clock=StartClock(ratio=1.1))
    with pytest.raises(BudgetError, match=r"takes 1\.10 \(1\.09 to 1\.11\) of the original's time"):
        NeverSlower.of(slow).run(
            menu(view), lambda _menu: None, lambda _s: Configuration(), lambda _c: nn.Identity()
        )
    within_noise = replace(view, clock=StartClock(ratio=1.025))
    NeverSlower.of(within_noise).run(
        menu(view), lambda _menu: None, lambda _s: Configuration(), lambda _c: nn.Identity()
    )


def test_a_busy_machine_leaves_the_decisions_unchecked_and_says_so(view):
    ranks = body_options(view)
    solve, configuration = mildest({o: round(16 * o.fractions[0]) for o in ranks["body"]})
    guard = NeverSlower.of(replace(view, clock=BusyClock()))
    found, facts = guard.run(
        replace(menu(view), ranks=ranks), solve, configuration, lambda _c: nn.Identity()
    )
    assert found is ranks["body"][0]
    assert facts == {"not_checked": "the machine is too busy"}
    with pytest.raises(MeasureError, match="too busy"):
        guard.most_that_pay(configuration(found))


def test_nothing_guards_without_a_clock_or_where_slower_is_allowed(view):
    assert NeverSlower.of(replace(view, clock=None)) is None
    assert NeverSlower.of(replace(view, allow_slower=True)) is None


def test_pairs_are_given_the_highest_rank_that_pays(view):
    group = next(g.name for g in view.graph.groups if "stem" in g.producers)
    guard = NeverSlower.of(view)
    most = guard.most_that_pay(Configuration({group: tuple(range(15))}, {"body": svd(13)}))
    assert most[ROWS, group] == 14
    rank = most[COLUMNS, "body"]
    time = guard.pricer.layer
    kept = {group: tuple(range(15))}
    dense = time("body", Configuration(kept)).nanoseconds
    assert (
        time("body", Configuration(kept, {"body": svd(rank)})).nanoseconds <= 1.02 * dense + 1_000
    )
    assert time("body", Configuration(kept, {"body": svd(13)})).nanoseconds > 1.02 * dense + 1_000
    assert guard.most_that_pay(Configuration({}, {"body": svd(2)})) == {}
