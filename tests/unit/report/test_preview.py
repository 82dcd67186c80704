from rich.console import Console

from lissom.extension import Proposal
from lissom.graph.layers import LayerSpec, ModelGraph
from lissom.plan.cost import Cost
from lissom.plan.plan import Plan
from lissom.plan.quantize import Quantize
from lissom.report.preview import layout

LAYER = LayerSpec("conv1", "conv2d", (3, 8, 8), (4, 8, 8), 1, Cost(1000, 50_000, 32_000))
GRAPH = ModelGraph((LAYER,), (), ())
SMALLEST = Cost(1000, 50_000, 8 * 120)


def text(proposal: Proposal | None, smallest: Cost | None) -> str:
    console = Console(width=100)
    with console.capture() as said:
        console.print(layout(GRAPH, proposal, smallest))
    return said.get()


def test_levels_show_the_estimated_and_the_smallest_file() -> None:
    plan = Plan((Quantize("conv1", 3, 400, True),))
    shown = text(Proposal(plan, {}, Cost(1000, 50_000, 8 * 400)), SMALLEST)
    assert "Estimated file: 400 bytes (10.00× smaller)." in shown
    assert "Smallest file, all weights zero: 120 bytes (33.33× smaller)." in shown
    assert "Groups" not in shown


def test_a_method_that_trains_shows_the_smallest_file_alone() -> None:
    shown = text(None, SMALLEST)
    assert "Smallest file, all weights zero: 120 bytes" in shown
    assert "Estimated" not in shown
    assert "decides while it trains" in shown


def test_parameters_of_32_bits_say_nothing_of_files() -> None:
    proposal = Proposal(Plan(()), {}, Cost(500, 20_000, 16_000), labels={"conv1": "prune"})
    shown = text(proposal, Cost(100, 5_000, 3_200))
    assert "file" not in shown
    assert "Groups" in shown
    assert "file" not in text(None, None)
