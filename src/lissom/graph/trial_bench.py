"""What a trial cut is compared with: the whole network, its outputs, its shapes in both modes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lissom.graph.advice import instead_of_literals
from lissom.graph.channels import Cause
from lissom.graph.cut import keep_channels
from lissom.graph.layers import ChannelGroup, Role
from lissom.graph.trace import undisturbed
from lissom.plan.surgery import find_tensor

# Summing in another order changes float32 outputs by about 1e-6 of their size per layer; a channel
# taken for another changes them by a few percent.
TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Trial:
    """A group and the channels of it that a trial cut keeps."""

    group: ChannelGroup
    kept: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong with a trial cut, and in which module ("" if that is not known)."""

    cause: Cause
    module: str = ""


Check = Callable[[Sequence[Trial]], Failure | None]


class Bench:
    """Cuts copies of a network and compares them with it.

    Its own copy has constant parameters replaced by noise: a layer scale of zeros would hide
    whatever is wrong behind it.
    """

    def __init__(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Copy and run the network.

        Args:
            model: In any mode.
            inputs: A batch of two or more that it accepts.
        """
        self._model = copy.deepcopy(model).eval()
        _roughen(self._model)
        self._inputs = tuple(_lively(x) for x in inputs)
        self._shapes = _shapes(_run(self._model, self._inputs))
        self._train_shapes: list[tuple[int, ...]] | None = None
        with suppress(Exception):
            self._train_shapes = _shapes(_run(_sharing(self._model).train(), self._inputs))

    def runs(self, trials: Sequence[Trial]) -> Failure | None:
        """Check that the network runs and returns the same shapes when all the groups are cut."""
        outputs = self._cut_outputs(trials, "")
        if isinstance(outputs, Failure):
            return outputs
        if _shapes(outputs) != self._shapes:
            return Failure(
                Cause(
                    "cutting it changes the shape of the network's output",
                    remedy="keep the sizes that the output has out of the channels",
                )
            )
        return None

    def agrees(self, trials: Sequence[Trial]) -> Failure | None:
        """Check that it computes what the whole network does when nobody reads the cut channels."""
        outputs = self._cut_outputs(trials, "")
        if isinstance(outputs, Failure):
            return outputs
        whole = _sharing(self._model)
        for trial in trials:
            ignore_channels(whole, trial.group, trial.kept)
        expected = _run(whole, self._inputs)
        pairs = zip(_tensors(outputs), _tensors(expected), strict=True)
        if all(close(got, wanted) for got, wanted in pairs):
            return None
        return Failure(
            Cause(
                "the output changes although nothing reads the channels that were cut, so the code "
                "picks channels by position",
                remedy="use split, chunk or layers of their own instead of slices with numbers",
            )
        )

    def trains(self, trials: Sequence[Trial]) -> Failure | None:
        """Check that the network runs in train mode as well, with the same shapes."""
        if self._train_shapes is None:
            return None
        outputs = self._cut_outputs(trials, "in train mode ")
        if isinstance(outputs, Failure):
            return outputs
        if _shapes(outputs) != self._train_shapes:
            return Failure(Cause("cutting it changes the shape of the outputs in train mode"))
        return None

    def _cut_outputs(self, trials: Sequence[Trial], when: str) -> Any:
        """Give the outputs of the cut network, in train mode if ``when`` says so, or a failure."""
        cut = _sharing(self._model)
        try:
            for decision in keep_channels([(t.group, t.kept) for t in trials]):
                decision.apply(cut)
        except Exception as error:
            return Failure(Cause(f"its tensors can't be sliced: {error}"))
        cut.train(bool(when))
        try:
            return _run(cut, self._inputs)
        except Exception as error:
            return _explained(error, when, cut)


def ignore_channels(model: nn.Module, group: ChannelGroup, kept: Sequence[int]) -> None:
    """Let no layer of ``model`` read any but the ``kept`` channels: zero the weights."""
    stay = set(kept)
    for member in group.members:
        if member.role is not Role.INPUT:
            continue
        gone = [i for i, label in enumerate(member.labels) if label >= 0 and label not in stay]
        parameter = find_tensor(model, member.tensor)
        weight = parameter.detach().clone()
        if member.groups == 1:
            index = torch.tensor(gone, dtype=torch.long, device=weight.device)
            weight.index_fill_(member.axis, index, 0)
        columns, rows = weight.shape[1], weight.shape[0] // member.groups
        for channel in gone if member.groups > 1 else ():
            part = channel // columns
            weight[part * rows : (part + 1) * rows, channel % columns] = 0
        parameter.data = weight


def _sharing(model: nn.Module) -> nn.Module:
    """Copy a network without copying its parameters' numbers."""
    copied = copy.deepcopy(
        model, {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in model.parameters()}
    )
    return copied.eval()


def _roughen(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point() or tensor.numel() < 2:
                continue
            if bool((tensor == tensor.flatten()[0]).all()):
                noise = torch.rand(tensor.shape, generator=generator).to(tensor)
                tensor.copy_(noise + (-0.5 if name.endswith(("bias", "running_mean")) else 0.5))


def _lively(x: Tensor) -> Tensor:
    """Replace a constant input (zeros, say) by noise."""
    if not x.is_floating_point() or x.numel() < 2 or bool((x != x.flatten()[0]).any()):
        return x
    generator = torch.Generator().manual_seed(0)
    return torch.randn(x.shape, generator=generator).to(x)


def _run(model: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    with torch.no_grad(), undisturbed():
        return model(*[x.clone() for x in inputs])


def _tensors(outputs: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _shapes(outputs: Any) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in _tensors(outputs)]


def close(got: Tensor, expected: Tensor) -> bool:
    """Tell whether two outputs are equal but for the order of summation; NaN are left out."""
    if not expected.is_floating_point():
        return bool((got == expected).all())
    known = expected.isfinite()
    if not known.any():
        return True
    size = expected[known].abs().max().clamp_min(1e-6)
    return bool(((got[known] - expected[known]).abs().max() <= TOLERANCE * size).item())


def _explained(error: Exception, when: str, model: nn.Module) -> Failure:
    """Say where a cut network failed and what to write instead."""
    where, module = "", ""
    names = {id(m): name for name, m in model.named_modules()}
    frame: TracebackType | None = error.__traceback__
    while frame is not None:
        code = frame.tb_frame.f_code
        owner = names.get(id(frame.tb_frame.f_locals.get("self")))
        if owner is not None:
            module = owner
            if "/torch/" not in code.co_filename:
                where = f"{code.co_filename}:{frame.tb_lineno}"
        frame = frame.tb_next
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    reason = f"{when}the network does not run after a cut, in {module or 'its forward'}: {text}"
    return Failure(Cause(reason, where, instead_of_literals(text)), module)
