import pytest
import torch

from lissom.graph.capture import capture
from lissom.methods.grouping import Difference
from lissom.methods.importance import cuts_of
from lissom.methods.menu import FAMILIES, RankOption
from lissom.methods.relax import relaxed
from lissom.methods.space import menu_of
from lissom.methods.units import units_of
from lissom.search.price import Pricer
from method_samples import Small, seeded


@pytest.fixture(scope="module")
def menu():
    model = seeded(Small)
    graph = capture(model, (torch.zeros(1, 3, 8, 8),))
    units = units_of(graph, ())
    scores = {unit.name: torch.rand(unit.group.channels) for unit in units if unit.group}
    return menu_of(units, cuts_of(units, scores, 4), Pricer(model, graph), FAMILIES, 1)


def labels(stem: str, a: str, c: str, head: str) -> dict[str, str]:
    return {"stem": stem, "a": a, "c": c, "head": head}


def test_labels_decide_what_is_up_for_choice(menu):
    items = menu.items(labels("prune", "decompose", "both", "keep"))
    assert [(item.unit, item.layer) for item in items] == [
        ("stem", ""),
        ("a", "a"),
        ("c", ""),
        ("c", "c"),
    ]
    stem = menu.items(labels("both", "keep", "keep", "keep"))
    assert [item.layer for item in stem] == ["", "stem", "b"]


def test_ranks_follow_the_channels_that_are_left(menu):
    items = menu.items(labels("keep", "both", "keep", "keep"))
    cut, ranks = items
    half = next(i for i, kept in enumerate(cut.options) if len(kept) == 12) + 1
    svd = ranks.options.index(RankOption("channel_svd", (0.25,))) + 1
    whole = menu.configuration(items, (0, svd))
    less = menu.configuration(items, (half, svd))
    assert whole.low_rank["a"].ranks == (6,)
    assert less.low_rank["a"].ranks == (3,)
    assert len(less.kept["a"]) == 12
    assert menu.configuration(items, (0, 0)).kept == {}


def test_prices_of_choices_are_those_of_the_pricer(menu):
    items = menu.items(labels("both", "both", "both", "both"))
    generator = torch.Generator().manual_seed(0)
    problem = menu.problem(items, lambda item, index: index + 1.0, {"params": 9, "macs": 5})
    assert problem.limits == (9.0, 5.0)
    assert problem.harms[0][:3] == (0.0, 1.0, 2.0)
    for _ in range(40):
        choice = tuple(
            int(torch.randint(len(item.options) + 1, (), generator=generator)) for item in items
        )
        cost = menu.pricer.price(menu.configuration(items, choice))
        assert problem.price(choice) == (cost.params, cost.macs)
    assert problem.price((0,) * len(items)) != problem.price((1,) * len(items))


def test_smallest_is_what_the_strongest_options_leave(menu):
    smallest = menu.smallest("hmc")
    assert smallest == menu.smallest("ahc")
    for quantity in ("params", "macs"):
        for other in (labels("prune", "prune", "prune", "keep"), menu.strongest("nahc", quantity)):
            items = menu.items(other)
            choice = tuple(len(item.options) for item in items)
            cost = menu.pricer.price(menu.configuration(items, choice))
            assert getattr(smallest, quantity) <= getattr(cost, quantity)
            assert getattr(menu.smallest("nahc"), quantity) <= getattr(cost, quantity)


def test_nahc_never_does_both(menu):
    assert set(menu.strongest("nahc", "macs").values()) <= {"prune", "decompose"}
    assert menu.strongest("nahc", "macs")["head"] == "decompose"


def test_wider_labels_come_in_order_and_end_at_the_strongest(menu):
    difference = {"stem": Difference(3.0), "a": Difference(-2.0), "c": Difference(0.1)}
    start = labels("prune", "keep", "both", "keep")
    attempts = list(relaxed(menu, start, difference, "hmc", ("macs",)))
    assert attempts[0] == start
    assert attempts[1] == labels("prune", "decompose", "both", "decompose")
    assert attempts[-1] == dict.fromkeys(start, "both")
    counts = [sum(label == "both" for label in one.values()) for one in attempts]
    assert counts == sorted(counts)


def test_wider_labels_of_nahc_stay_exclusive(menu):
    difference = {"stem": Difference(3.0), "a": Difference(-2.0), "c": Difference(0.1)}
    start = labels("prune", "keep", "decompose", "keep")
    attempts = list(relaxed(menu, start, difference, "nahc", ("params", "macs")))
    assert all("both" not in one.values() for one in attempts)
    assert attempts[-2:] == [menu.strongest("nahc", one) for one in ("params", "macs")]
