from importlib.metadata import EntryPoint

import pytest

from lissom import extension
from lissom.errors import RecipeError
from lissom.extension import find_method, limits_of
from lissom.methods.edp import Edp
from lissom.methods.hmc import Hmc


class Mine:
    name = "mine"


class _Installed(list):
    @property
    def names(self):
        return {point.name for point in self}


def test_built_in_methods_come_first(monkeypatch):
    monkeypatch.setattr(extension, "entry_points", lambda group: pytest.fail("looked outside"))
    assert find_method("mine", {"mine": Mine}) is Mine


def test_methods_of_other_packages_are_entry_points(monkeypatch):
    points = _Installed([EntryPoint("theirs", f"{__name__}:Mine", "lissom.methods")])
    monkeypatch.setattr(extension, "entry_points", lambda group: points)
    assert find_method("theirs", {}).__name__ == "Mine"
    with pytest.raises(RecipeError, match=r"method: 'their' is not known; .* mine, theirs"):
        find_method("their", {"mine": Mine})


def test_a_method_that_does_not_say_what_it_can_be_held_to_is_held_to_counts():
    assert limits_of(Mine) == limits_of(Mine()) == {"macs", "params"}
    assert limits_of(Edp) == limits_of(Edp()) == {"macs", "params", "latency"}
    assert limits_of(Hmc) == {"macs", "params", "latency"}
    held = type("Held", (), {"limits": frozenset({"size"})})
    assert limits_of(held()) == {"size"}
