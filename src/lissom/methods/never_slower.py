"""What the clock does not pay for is not done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Generic, TypeVar

from torch import nn

from lissom.clock import Clock, TimeRatio
from lissom.errors import BudgetError, MeasureError
from lissom.extension import ModelView
from lissom.methods.menu import RankOption, resolve, with_channels
from lissom.methods.space import Menu
from lissom.relaxation.support import COLUMNS, ROWS, Key
from lissom.search.price import Configuration, LowRank, Pricer

_ROUNDS = 12
_STUBBORN = 6  # rounds after which a layer whose decompositions keep failing is left whole
_TOLERANCE = 0.02  # of a time
_RESOLUTION = 1_000  # nanoseconds: the profile counts whole microseconds
_NAMED = 3  # decisions that a message names

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Unpaid:
    """A decision that makes the network slower than it is without it.

    Attributes:
        name: Of the layer, or of the channel group.
        family: Of the decomposition; "" where channels are cut.
        counts: Its ranks, or how many channels are left.
        microseconds: Of the layers concerned, with it.
        without: The same without it.
    """

    name: str
    family: str
    counts: tuple[int, ...]
    microseconds: float
    without: float

    def __str__(self) -> str:
        counts = ", ".join(map(str, self.counts))
        what = f"{self.family} {counts}" if self.family else f"{counts} channels"
        return f"{self.name} ({what}: {self.microseconds:.0f} us, {self.without:.0f} without)"


@dataclass(frozen=True, slots=True)
class NeverSlower(Generic[S]):
    """Searches again, without what turned out to cost time, until everything that is done pays.

    Layers are timed as they would be in the network that was found: only those that were chosen,
    not all that could be. A decomposition has to be no slower than the layer that it stands for, a
    set of channels no slower than all of them. Where a decomposition does not pay, the family's
    milder ones are left out with it, down to the first that does; a set of channels goes alone.

    Attributes:
        clock: Tells the times.
        original: What the network as a whole is compared with.
        pricer: Prices by that clock.
    """

    clock: Clock
    original: nn.Module
    pricer: Pricer

    @classmethod
    def of(cls, view: ModelView) -> NeverSlower[S] | None:
        """Prepare for a view; None where there is no clock, or slower networks are allowed."""
        if view.clock is None or view.allow_slower:
            return None
        original = view.model if view.original is None else view.original
        return cls(view.clock, original, Pricer(view.model, view.graph, view.clock))

    def run(
        self,
        menu: Menu,
        solve: Callable[[Menu], S],
        configuration: Callable[[S], Configuration],
        build: Callable[[Configuration], nn.Module],
    ) -> tuple[S, dict[str, Any]]:
        """Search, time, and search again.

        Args:
            menu: All that could be done.
            solve: Finds the best on a menu.
            configuration: Says what a solution does.
            build: Builds its network.

        Returns:
            The solution, and what was left out and measured, JSON-ready. Where nothing within the
            budget is left without what costs time, it is taken all the same, as long as the network
            as a whole is no slower than the original. On a machine that is too busy to tell it is
            the first solution, unchecked.

        Raises:
            BudgetError: ``solve`` finds nothing at all, or the network as a whole is slower than
                the original.
        """
        first = solve(menu)
        try:
            return self._checked(first, menu, solve, configuration, build)
        except MeasureError as error:
            return first, {"not_checked": str(error)}

    def most_that_pay(self, now: Configuration) -> dict[Key, int]:
        """Give, for what is slower than without it, the most columns or channels that would pay.

        Args:
            now: What is done; families of one rank.

        Returns:
            For a pair of factors that is slower than the layer that it stands for, the highest rank
            below its own at which it is not, 0 where there is none; for a channel group one less
            than it has. Empty where all pays.

        Raises:
            MeasureError: The machine is too busy to tell.
        """
        most: dict[Key, int] = {}
        for one in self._unpaid(now):
            if one.family:
                low_rank = now.low_rank[one.name]
                most[COLUMNS, one.name] = self._highest_rank(one.name, low_rank, now)
            else:
                most[ROWS, one.name] = len(now.kept[one.name]) - 1
        return most

    def _highest_rank(self, layer: str, low_rank: LowRank, now: Configuration) -> int:
        dense = self._time([layer], _dense(now))
        low, high = 0, low_rank.ranks[0] - 1
        while low < high:
            middle = (low + high + 1) // 2
            form = replace(now, low_rank={layer: replace(low_rank, ranks=(middle,))})
            pays = not _slower(self._time([layer], form), dense)
            low, high = (middle, high) if pays else (low, middle - 1)
        return low

    def _checked(
        self,
        found: S,
        menu: Menu,
        solve: Callable[[Menu], S],
        configuration: Callable[[S], Configuration],
        build: Callable[[Configuration], nn.Module],
    ) -> tuple[S, dict[str, Any]]:
        left_out: list[Unpaid] = []
        slow, why = list(self._unpaid(configuration(found))), ""
        for number in range(_ROUNDS):
            if not slow:
                break
            menu = self._without(menu, slow, configuration(found), stubborn=number >= _STUBBORN)
            try:
                found = solve(menu)
            except BudgetError as error:
                why = str(error)
                break
            left_out.extend(slow)
            slow = list(self._unpaid(configuration(found)))
        ratio = self.clock.ratio(build(configuration(found)), self.original)
        if ratio.slower:
            raise BudgetError(_refusal(ratio, slow or left_out, why))
        facts = {
            "left_out": [asdict(one) for one in left_out],
            "taken_all_the_same": [asdict(one) for one in slow],
            "ratio": asdict(ratio),
        }
        return found, facts

    def _unpaid(self, now: Configuration) -> Iterator[Unpaid]:
        """Name the decisions without which the network is faster."""
        for layer, low_rank in now.low_rank.items():
            taken, without = (self._time([layer], one) for one in (now, _dense(now)))
            if _slower(taken, without):
                yield Unpaid(layer, low_rank.family, low_rank.ranks, taken / 1e3, without / 1e3)
        for group, kept in now.kept.items():
            rest = {name: channels for name, channels in now.kept.items() if name != group}
            touched = self.pricer.touched(group)
            taken, without = (self._time(touched, one) for one in (now, replace(now, kept=rest)))
            if _slower(taken, without):
                yield Unpaid(group, "", (len(kept),), taken / 1e3, without / 1e3)

    def _time(self, layers: Any, configuration: Configuration) -> int:
        return sum(self.pricer.layer(layer, configuration).nanoseconds for layer in layers)

    def _without(
        self, menu: Menu, unpaid: list[Unpaid], now: Configuration, *, stubborn: bool
    ) -> Menu:
        """Take from the menu what does not pay under a configuration."""
        ranks, cuts = dict(menu.ranks), dict(menu.cuts)
        for one in unpaid:
            if one.family:
                low_rank = now.low_rank[one.name]
                options = () if stubborn else self._paying(menu, one.name, low_rank, now)
                ranks[one.name] = options
            else:
                left = tuple(o for o in cuts[one.name] if len(o) != len(now.kept[one.name]))
                cuts[one.name] = left
        return replace(menu, ranks=ranks, cuts=cuts)

    def _paying(
        self, menu: Menu, layer: str, low_rank: LowRank, now: Configuration
    ) -> tuple[RankOption, ...]:
        """Give a layer's options without those of one family that are too mild to pay.

        The family's options are in order of cost, so that those that pay are the last ones: how
        many, bisection tells.
        """
        shape = with_channels(menu.pricer.shapes[layer], *menu.pricer.channels(layer, now))
        dense = self._time([layer], _dense(now))

        def pays(option: RankOption) -> bool:
            resolved = resolve(option, shape, menu.round_to)
            if resolved is None:
                return True  # too mild for the channels that are left: nothing is done
            if resolved == low_rank:
                return False
            form = replace(now, low_rank={layer: resolved})
            return not _slower(self._time([layer], form), dense)

        mine = [option for option in menu.ranks[layer] if option.family == low_rank.family]
        tested = [o for o in mine if resolve(o, shape, menu.round_to) is not None]
        low, high = 0, len(tested)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if pays(tested[middle]) else (middle + 1, high)
        gone = {id(option) for option in tested[:low]}
        gone |= {id(o) for o in mine if resolve(o, shape, menu.round_to) == low_rank}
        return tuple(option for option in menu.ranks[layer] if id(option) not in gone)


def _dense(now: Configuration) -> Configuration:
    return replace(now, low_rank={})


def _slower(taken: int, without: int) -> bool:
    return taken > without * (1 + _TOLERANCE) + _RESOLUTION


def _refusal(ratio: TimeRatio, slow: list[Unpaid], why: str) -> str:
    worst = sorted(slow, key=lambda one: one.without - one.microseconds)[:_NAMED]
    named = f"; slower than what they replace: {', '.join(map(str, worst))}" if worst else ""
    alternative = f"; without such decisions {why}" if why else ""
    return (
        f"the network within the budget takes {ratio} of the original's time on this machine"
        f"{named}{alternative}. Give latency as the budget, or allow it (--allow-slower)"
    )
