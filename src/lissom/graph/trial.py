"""Trial cuts: every channel group is cut on a copy, and what does not work is frozen and explained.

The exported graph can't tell a size written as a number from one read off a tensor, so only
running the cut network shows whether its code follows. Where the coupling claims exactness, the
cut network must also compute what the whole one does once nobody reads the removed channels.
"""

from __future__ import annotations

import copy
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lissom.graph.channels import Cause
from lissom.graph.cut import keep_channels
from lissom.graph.groups import Found
from lissom.graph.layers import ChannelGroup, Role
from lissom.graph.trace import undisturbed
from lissom.graph.trial_choice import trial_choice
from lissom.plan.surgery import find_tensor

# Summing in another order changes float32 outputs by about 1e-6 of their size per layer; a channel
# taken for another changes them by a few percent.
TOLERANCE = 1e-3
_UNEVEN = Cause("no smaller number of channels keeps its parts equally large")


@dataclass(frozen=True, slots=True)
class _Trial:
    """What is tried: groups with the channels to keep."""

    found: Found
    kept: tuple[int, ...]


def try_cuts(
    model: nn.Module, inputs: tuple[Tensor, ...], found: Sequence[Found]
) -> tuple[Found, ...]:
    """Cut every group that is not frozen, and freeze those that do not survive it.

    All are cut together; only if that fails are they told apart by halving.

    Args:
        model: A private copy in eval mode, not changed.
        inputs: A batch that it accepts.
        found: The groups.
    """
    bench = _Bench(model, inputs)
    verdicts: dict[str, Cause] = {}
    trials: list[_Trial] = []
    for number, one in enumerate(found):
        if one.cause is None:
            kept = trial_choice(one.group, number)
            if kept is None:
                verdicts[one.group.name] = _UNEVEN
            else:
                trials.append(_Trial(one, kept))
    exact = [t for t in trials if t.found.group.exact]
    passed = _grow(bench, [], exact, verdicts)
    _grow(bench, passed, [t for t in trials if not t.found.group.exact], verdicts)
    return tuple(_judged(one, verdicts.get(one.group.name)) for one in found)


def _judged(found: Found, cause: Cause | None) -> Found:
    if cause is None:
        return found
    return Found(replace(found.group, frozen_because=str(cause)), cause)


def _grow(
    bench: _Bench, passed: list[_Trial], new: list[_Trial], verdicts: dict[str, Cause]
) -> list[_Trial]:
    """Give ``passed`` and those of ``new`` that can be cut together with it."""
    if not new:
        return passed
    cause = bench.test([*passed, *new])
    if cause is None:
        return [*passed, *new]
    if len(new) == 1:
        verdicts[new[0].found.group.name] = cause
        return passed
    half = len(new) // 2
    return _grow(bench, _grow(bench, passed, new[:half], verdicts), new[half:], verdicts)


class _Bench:
    """The network to compare with, its inputs and its outputs."""

    def __init__(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._model = copy.deepcopy(model).eval()
        _roughen(self._model)
        self._inputs = tuple(_lively(x) for x in inputs)
        self._shapes = _shapes(_run(self._model, self._inputs))
        trained = _attempt(copy.deepcopy(self._model).train(), self._inputs)
        self._train_shapes = None if isinstance(trained, Exception) else _shapes(trained)

    def test(self, trials: Sequence[_Trial]) -> Cause | None:
        """Give what goes wrong when the groups are cut together, or None."""
        cut = copy.deepcopy(self._model)
        try:
            for decision in keep_channels([(t.found.group, t.kept) for t in trials]):
                decision.apply(cut)
        except Exception as error:
            return Cause(f"its tensors can't be sliced: {error}")
        outputs = _attempt(cut, self._inputs)
        if isinstance(outputs, Exception):
            return _explained(outputs, "")
        if _shapes(outputs) != self._shapes:
            return Cause(
                "cutting it changes the shape of the network's output",
                remedy="keep the sizes that the output has out of the channels",
            )
        if all(t.found.group.exact for t in trials) and not self._same_values(outputs, trials):
            return Cause(
                "the output changes although nothing reads the channels that were cut: the code "
                "picks channels by "
                "position",
                remedy=(
                    "use torch.split, chunk or layers of their own instead of slices with numbers"
                ),
            )
        return self._test_training(cut)

    def _same_values(self, outputs: Any, trials: Sequence[_Trial]) -> bool:
        whole = copy.deepcopy(self._model)
        for trial in trials:
            ignore_channels(whole, trial.found.group, trial.kept)
        expected = _run(whole, self._inputs)
        return all(_close(a, b) for a, b in zip(_tensors(outputs), _tensors(expected), strict=True))

    def _test_training(self, cut: nn.Module) -> Cause | None:
        if self._train_shapes is None:
            return None
        outputs = _attempt(cut.train(), self._inputs)
        if isinstance(outputs, Exception):
            return _explained(outputs, "in train mode, ")
        if _shapes(outputs) != self._train_shapes:
            return Cause("cutting it changes the shape of what the network returns in train mode")
        return None


def ignore_channels(model: nn.Module, group: ChannelGroup, kept: Sequence[int]) -> None:
    """Set the weights that read all but the ``kept`` channels of a group to zero, in place."""
    stay = set(kept)
    for member in group.members:
        if member.role is not Role.INPUT:
            continue
        gone = [i for i, label in enumerate(member.labels) if label >= 0 and label not in stay]
        weight = find_tensor(model, member.tensor).data
        if member.groups == 1:
            index = torch.tensor(gone, dtype=torch.long, device=weight.device)
            weight.index_fill_(member.axis, index, 0)
            continue
        columns, rows = weight.shape[1], weight.shape[0] // member.groups
        for channel in gone:
            part = channel // columns
            weight[part * rows : (part + 1) * rows, channel % columns] = 0


def _roughen(model: nn.Module) -> None:
    """Make constant parameters and statistics vary: zeros and ones hide what is behind them."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point() or tensor.numel() < 2 or tensor.is_meta:
                continue
            if bool((tensor == tensor.flatten()[0]).all()):
                noise = torch.rand(tensor.shape, generator=generator).to(tensor)
                shift = 0.5 if name.endswith(("bias", "running_mean")) else -0.5
                tensor.copy_(noise - shift)


def _lively(x: Tensor) -> Tensor:
    """Replace a constant input (zeros, say) by noise."""
    if not x.is_floating_point() or x.numel() < 2 or bool((x != x.flatten()[0]).any()):
        return x
    generator = torch.Generator().manual_seed(0)
    return torch.randn(x.shape, generator=generator).to(x)


def _run(model: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    with torch.no_grad(), undisturbed():
        return model(*[x.clone() for x in inputs])


def _attempt(model: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """Give the outputs, or the exception."""
    try:
        return _run(model, inputs)
    except Exception as error:
        return error


def _tensors(outputs: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _shapes(outputs: Any) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in _tensors(outputs)]


def _close(got: Tensor, expected: Tensor) -> bool:
    if not expected.is_floating_point():
        return bool((got == expected).all())
    known = expected.isfinite()
    if not known.any():
        return True
    size = expected[known].abs().max().clamp_min(1e-6)
    return bool(((got[known] - expected[known]).abs().max() <= TOLERANCE * size).item())


def _explained(error: Exception, when: str) -> Cause:
    """Say where the cut network failed and what to write instead."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "/torch/" not in f.filename and "/lissom/graph/" not in f.filename]
    where = f"{own[-1].filename}:{own[-1].lineno}: {own[-1].line}" if own else ""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return Cause(f"{when}the network does not run after a cut: {text}", where, _remedy(where, text))


def _remedy(where: str, text: str) -> str:
    code = where.rpartition(": ")[2]
    if ".view(" in code or "reshape(" in code or "is invalid for input of size" in text:
        return "write x.flatten(1), or sizes read from x.shape, instead of a view with numbers"
    if "split" in code or "split" in text:
        return "split by x.shape[1] // parts or chunk instead of fixed sizes"
    return "read sizes from x.shape instead of writing them as numbers"
