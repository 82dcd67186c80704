import json

from lissom.graph.layers import ChannelGroup, LayerSpec, ModelGraph, Refusal
from lissom.plan.cost import Cost
from lissom.report.inspection import inspection, layout
from lissom.report.terminal import as_text


def conv(name: str, macs: int) -> LayerSpec:
    return LayerSpec(name, "conv2d", (3, 8, 8), (4, 8, 8), 1, Cost(100, macs, 3200))


GRAPH = ModelGraph(
    layers=(
        conv("a", 600),
        conv("b", 300),
        conv("c", 100),
        LayerSpec("head", "linear", (4,), (2,), 1, Cost(10, 8, 320)),
    ),
    groups=(
        ChannelGroup("a", 4, (), ("a",), ("b",)),
        ChannelGroup("b", 4, (), ("b",), ("c",), frozen_because="unknown operator"),
    ),
    refusals=(
        Refusal("b", "prune", "unknown operator foo", "net.py:7", "write it with known ones"),
        Refusal("c", "prune", "its outputs are the network's"),
        Refusal("c", "decompose", "it has groups=4"),
    ),
    notes=("something about the whole",),
)


def test_shares_are_of_the_convolutions_macs() -> None:
    shares = inspection("net", GRAPH).shares
    assert shares == {"prune": 0.6, "decompose": 0.9, "quantize": 1.0, "prune or decompose": 0.9}


def test_network_without_convolutions_has_no_shares() -> None:
    assert inspection("net", ModelGraph((), (), ())).shares == {}


def test_text_gives_reason_place_and_remedy() -> None:
    text = as_text(layout(inspection("net", GRAPH)))
    joined = " ".join(text.split())
    assert "unknown operator foo (at net.py:7). Write it with known ones" in joined
    assert "1 channel groups can be cut, 1 cannot." in text
    assert "prune or decompose 90.0 %" in joined
    assert "Note: something about the whole" in text


def test_json_says_for_each_action_whether_it_is_offered() -> None:
    content = json.loads(json.dumps(inspection("net", GRAPH).to_dict()))
    assert content["macs"] == 1008
    offered = {layer["name"]: layer["prune"]["offered"] for layer in content["layers"]}
    assert offered == {"a": True, "b": False, "c": False, "head": True}
    assert content["layers"][1]["prune"]["where"] == "net.py:7"
    assert content["groups"] == {"prunable": 1, "frozen": 1}
