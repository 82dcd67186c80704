"""Trial cuts: every channel group is cut on a copy, and what does not work is frozen and explained.

The exported graph can't tell a size written as a number from one read off a tensor, so only
running the cut network shows whether its code follows. Where the coupling claims exactness, the
cut network must also compute what the whole one does once nobody reads the removed channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from lissom.graph.channels import Cause
from lissom.graph.groups import Found
from lissom.graph.layers import ChannelGroup
from lissom.graph.trial_bench import Bench, Check, Trial
from lissom.graph.trial_choice import trial_choice

_UNEVEN = Cause("no smaller number of channels keeps its parts equally large")


def try_cuts(
    model: nn.Module, inputs: tuple[Tensor, ...], found: Sequence[Found]
) -> tuple[Found, ...]:
    """Cut every group that is not frozen, and freeze those that do not survive it.

    All are cut together; only if that fails are they told apart.

    Args:
        model: A private copy in eval mode, not changed.
        inputs: A batch that it accepts.
        found: The groups.
    """
    verdicts: dict[str, Cause] = {}
    trials: list[Trial] = []
    for number, one in enumerate(found):
        if one.cause is None:
            kept = trial_choice(one.group, number)
            if kept is None:
                verdicts[one.group.name] = _UNEVEN
            else:
                trials.append(Trial(one.group, kept))
    if trials:
        bench = Bench(model, inputs)
        trials = _sift(bench.runs, [], trials, verdicts)
        exact = _sift(bench.agrees, [], [t for t in trials if t.group.exact], verdicts)
        trials = [*exact, *(t for t in trials if not t.group.exact)]
        _sift(bench.trains, [], trials, verdicts)
    return tuple(_judged(one, verdicts.get(one.group.name)) for one in found)


def _judged(found: Found, cause: Cause | None) -> Found:
    if cause is None or found.cause is not None:
        return found
    if found.doubt is not None:
        cause = replace(cause, where=found.doubt.where, remedy=found.doubt.remedy)
    return Found(replace(found.group, frozen_because=str(cause)), cause)


def _sift(
    check: Check, passed: list[Trial], new: list[Trial], verdicts: dict[str, Cause]
) -> list[Trial]:
    """Give ``passed`` and those of ``new`` that can be cut together with it; judge the others."""
    if not new:
        return passed
    failure = check([*passed, *new])
    if failure is None:
        return [*passed, *new]
    if len(new) == 1:
        verdicts[new[0].group.name] = failure.cause
        return passed
    suspects = [t for t in new if _touches(t.group, failure.module)]
    if not 0 < len(suspects) < len(new):
        suspects = new[: len(new) // 2]
    rest = [t for t in new if t not in suspects]
    return _sift(check, _sift(check, passed, suspects, verdicts), rest, verdicts)


def _touches(group: ChannelGroup, module: str) -> bool:
    """Tell whether a tensor of the group lies in a module."""
    return any(f"{m.tensor}.".startswith(f"{module}.") for m in group.members)
