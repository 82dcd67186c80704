"""What a stage that comes last may be asked before the others begin."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from lissom.pipeline.finishing import check_time
from lissom.plan.budget import Budget, Limit


@dataclass
class Held:
    limits: frozenset[str]
    name: str = "held"


@dataclass
class Last(Held):
    asked: list[Any] = field(default_factory=list)

    def check_time(self, view: Any, limit: Limit) -> None:
        self.asked.append((view, limit))


LIMIT = Budget.parse("latency=0.5").latency


@pytest.mark.parametrize(
    ("before", "asked"),
    [((), False), (({"size"},), True), (({"size"}, {"macs"}), False), (({"latency"},), False)],
)
def test_time_is_asked_where_no_stage_before_changes_it(
    before: tuple[set[str], ...], asked: bool
) -> None:
    last = Last(frozenset({"latency"}))
    methods: Any = [*(Held(frozenset(one)) for one in before), last]
    view: Any = "view"
    check_time(view, methods, LIMIT)
    assert last.asked == ([(view, LIMIT)] if asked else [])
    check_time(view, methods, None)
    assert len(last.asked) == int(asked)
