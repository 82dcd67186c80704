import pytest
import torch
from torch import nn

from lissom.errors import RecipeError
from lissom.graph.capture import capture
from lissom.methods.units import units_of
from method_samples import Small, seeded


@pytest.fixture(scope="module")
def graph():
    return capture(seeded(Small), (torch.zeros(1, 3, 8, 8),))


def test_units_are_the_groups_and_what_no_group_holds(graph):
    units = {unit.name: unit for unit in units_of(graph, ())}
    assert list(units) == ["stem", "a", "c", "head"]
    assert units["stem"].members == ("stem", "b")
    assert units["stem"].layers == ("stem", "b")
    assert units["stem"].cost.macs == graph.layer("stem").cost.macs + graph.layer("b").cost.macs
    assert units["a"].families == ("prune", "decompose")
    assert units["head"].families == ("decompose",)  # the classes can't be cut
    assert units["head"].members == ("head",)


def test_an_ignored_layer_is_in_no_unit_and_its_group_is_not_cut(graph):
    units = {unit.name: unit for unit in units_of(graph, {"stem"})}
    assert list(units) == ["a", "b", "c", "head"]
    assert units["b"].families == ("decompose",)
    assert all("stem" not in unit.members for unit in units.values())


def test_everything_can_be_ignored(graph):
    assert units_of(graph, {layer.name for layer in graph.layers}) == ()


def test_an_unknown_layer_is_answered_with_the_nearest_name(graph):
    with pytest.raises(RecipeError, match=r"'norm_x' is not a layer .* did you mean norm"):
        units_of(graph, {"norm_x"})
    with pytest.raises(RecipeError, match=r"'zzz' is not a layer of the network; `lissom inspect`"):
        units_of(graph, {"zzz"})


def test_a_network_without_anything_to_do():
    graph = capture(nn.Sequential(nn.ReLU(), nn.Flatten()), (torch.zeros(1, 3),))
    assert units_of(graph, ()) == ()
