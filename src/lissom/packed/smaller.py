"""A packed file of a given size: levels become cheaper where that harms least."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from lissom.errors import BudgetError
from lissom.packed.network import packed_network
from lissom.packed.recognise import packable
from lissom.packed.tensors import Levels
from lissom.packed.writer import PackedFile
from lissom.plan.decision import Decision
from lissom.plan.plan import Plan
from lissom.plan.quantize import Quantize
from lissom.progress import meter
from lissom.quantization.levelled import bits_of
from lissom.quantization.trim import Trimmable, trimmed

_WEIGHT = ".weight"


@dataclass(frozen=True, slots=True)
class SmallerFile:
    """A packed file, and what it lost.

    Attributes:
        packed: The file.
        errors: By name of each tensor that changed: squared error over the sum of squares.
    """

    packed: PackedFile
    errors: Mapping[str, float]


def packed_within(state: Mapping[str, Tensor], plan: Plan, limit: int) -> SmallerFile:
    """Give the packed file of a network in at most ``limit`` bytes.

    Levels of weights that the plan quantizes move towards zero: each to the k that is least in
    h (w - s k)^2 + mu l(k), with its code length l and 1 / h the sum of squares of its weight, so
    that relative errors of layers count alike; mu, one for all, is the least with which the real
    file fits. All else stays.

    Args:
        state: By name what ``stored_state`` gives.
        plan: All decisions from the original on; bits and densities in it are brought up to date.
        limit: Bytes.

    Raises:
        BudgetError: No weight is quantized, or zeros everywhere still take more.
        WeightsError: A tensor is of a type that a packed file can't hold.
    """
    quantized = (d.layer + _WEIGHT for d in plan.decisions if isinstance(d, Quantize))
    found = {name: packable(state[name]) for name in quantized if name in state}
    levels = {name: one for name, one in found.items() if isinstance(one, Levels)}
    tensors = {name: _trimmable(one) for name, one in levels.items()}

    def file_with(chosen: Mapping[str, Tensor]) -> PackedFile:
        now = {name: replace(levels[name], levels=chosen[name]) for name in chosen}
        return packed_network({**state, **now}, _updated(plan, now))

    with meter("cheaper levels", None) as bar:

        def size(chosen: Mapping[str, Tensor]) -> int:
            found = len(file_with(chosen).content)
            bar.advance(note=f"{found:,} of {limit:,} bytes")
            return found

        chosen = trimmed(tensors, limit, size) if tensors else {}
    packed = file_with(chosen)
    if len(packed.content) > limit:
        raise BudgetError(
            f"size: the file takes {len(packed.content):,} bytes with zeros for all of the "
            f"{len(levels)} quantized weights, above {limit:,}; allow more, or quantize first "
            "(--method ajc)"
        )
    return SmallerFile(packed, _errors(tensors, levels, chosen))


def _trimmable(one: Levels) -> Trimmable:
    values = one.tensor()
    step = one.scale.reshape(-1, *[1] * (values.ndim - 1)) if one.scale.ndim else one.scale
    return Trimmable(values, one.levels, step, 1 / values.square().sum().clamp_min(1e-20))


def _updated(plan: Plan, levels: Mapping[str, Levels]) -> Plan:
    def now(decision: Decision) -> Decision:
        if not isinstance(decision, Quantize) or decision.layer + _WEIGHT not in levels:
            return decision
        chosen = levels[decision.layer + _WEIGHT].levels
        return replace(decision, bits=bits_of(chosen), nonzero=int(chosen.count_nonzero()))

    return replace(plan, decisions=tuple(map(now, plan.decisions)))


def _errors(
    before: Mapping[str, Trimmable], levels: Mapping[str, Levels], chosen: Mapping[str, Tensor]
) -> dict[str, float]:
    errors = {}
    for name, one in before.items():
        after = replace(levels[name], levels=chosen[name]).tensor()
        error = (one.weight.double() - after.double()).square().sum()
        if error > 0:
            errors[name] = float(error / one.weight.double().square().sum())
    return errors
