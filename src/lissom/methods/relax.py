"""Wider labels, for budgets that the labels found by sensitivity can't reach."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from lissom.methods.grouping import Difference
from lissom.methods.space import BOTH, DECOMPOSE, KEEP, PRUNE, Menu

_NONE = Difference(0.0)


def relaxed(
    menu: Menu,
    labels: Mapping[str, str],
    difference: Mapping[str, Difference],
    variant: str,
    quantities: Sequence[str],
) -> Iterator[dict[str, str]]:
    """Give the labels, then ever wider ones, for budgets that the labels alone can't reach.

    First nothing is kept; then the units with the smallest |d|, where the choice matters least, go
    to ``both`` (or, in ``nahc``, to the family that removes more); at last come the labels that
    leave least.

    Args:
        menu: What could be done to each unit.
        labels: As grouped by sensitivity.
        difference: Per unit with both families its d.
        variant: ``nahc`` never gets ``both``.
        quantities: What the budget limits.
    """
    yield dict(labels)
    unkept = dict(labels)
    for unit in menu.units:
        if unkept[unit.name] == KEEP and unit.families:
            favourite = PRUNE if difference.get(unit.name, _NONE).value > 0 else DECOMPOSE
            unkept[unit.name] = favourite if favourite in unit.families else unit.families[0]
    yield unkept
    order = sorted(difference, key=lambda name: abs(difference[name].value))
    units = {unit.name: unit for unit in menu.units}
    for share in (0.25, 0.5, 0.75, 1.0):
        wider = dict(unkept)
        for name in order[: round(share * len(order))]:
            exclusive = variant == "nahc"
            wider[name] = menu.stronger(units[name], quantities[0], wider) if exclusive else BOTH
        yield wider
    for quantity in quantities:
        yield menu.strongest(variant, quantity)
