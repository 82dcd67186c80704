"""The curvature of the harm in each layer's weight, from one pass forwards and backwards.

Changing a layer's weight by D moves the outputs z of an image by J vec(D), and the harm is
1/2 E[vec(D)^T J^T H J vec(D)] to second order, H the Hessian of the distance at z. With random
vectors r, E[r r^T] = H, and A = d(r . z) / dW of one image this is 1/2 E[<A, D>^2]. Its matrix,
E[vec A vec A^T], is far too large; the Kronecker product that has the same two partial traces is
not:

    harm(D) = 1/2 tr(U D V D^T) / tr(V),    U = E[A A^T],    V = E[A^T A].

A sums over all output positions of the image. Covariances of single positions, E[g g^T] and
E[x x^T], would do if gradients at different positions had nothing to do with each other; behind a
pooled head they are equal, and the harm of late layers would come out too small by up to the number
of positions.

Source:
    Grosse and Martens, arXiv:1602.01407, Sec. 3 (the factors, position by position); Gupta, Koren,
    Singer, arXiv:1802.09568 (U and V of whole gradients).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lissom.errors import DataError, ModelError
from lissom.progress import meter
from lissom.sensitivity.statistics import PATCH_LIMIT, patches
from lissom.task import Classification, Task, on_copies

_PARTS = 4  # of the images, that the standard error is read from
_AT_ONCE = 1 << 24  # numbers in the patches that are looked at together
_ALL = 1 << 62


@dataclass(frozen=True, slots=True)
class Curvature:
    """What a change of one layer's weight harms, to second order.

    Attributes:
        outputs: U of each part of the images, (parts, T, T), double precision.
        inputs: V / tr(V): (S k k, S k k), or (S, S) for each position of the kernel alike.
    """

    outputs: Tensor
    inputs: Tensor

    def harms(self, change: Tensor) -> Tensor:
        """Give the harm on each part of the images, (parts,), in the task's distance.

        Args:
            change: What is added to the weight, (T, S, kH, kW) or (T, S).
        """
        dense = change.detach().to(self.inputs.device, torch.float64)
        dense = dense.reshape(*dense.shape[:2], -1)  # (T, S, K)
        whole = self.inputs.shape[0] == dense.shape[1] * dense.shape[2]
        rows = dense.flatten(1)[:, None] if whole else dense.transpose(1, 2)  # (T, J, N)
        moved = (rows @ self.inputs).flatten(1) @ rows.flatten(1).T / rows.shape[1]  # (T, T)
        return 0.5 * (self.outputs * moved).sum((1, 2))


def has_known_curvature(task: Task) -> bool:
    """Tell whether a task's distance has a Hessian that ``curvatures`` knows, without labels."""
    return type(task).distance is Classification.distance


def curvatures(
    model: nn.Module, layers: Iterable[str], batches: Iterable[Any], task: Task, images: int
) -> dict[str, Curvature]:
    """Measure U and V of every layer.

    For the distance of ``Classification``, r is drawn such that E[r r^T] is the Hessian of the KL
    divergence, diag(p) - p p^T; labels are not read. For any other, r is the gradient of
    ``task.loss`` on the batch's own targets (the empirical Fisher matrix), which says as much of
    the distance as the loss does.

    Args:
        model: Network in eval mode; a copy is run.
        layers: Names of ungrouped ``Conv2d`` and ``Linear`` modules; what a module called several
            times does in one call is taken as independent of the others.
        batches: Calibration batches.
        task: Gives inputs, and the loss where it is needed.
        images: How many samples to read at most.

    Raises:
        DataError: There is no batch.
        ModelError: A gradient is not finite.
    """
    private = copy.deepcopy(model).requires_grad_(False)  # noqa: FBT003 - torch's own name
    modules = dict(private.named_modules())
    sums = {name: _Sums() for name in layers}
    if not sums:
        return {}
    for name, one in sums.items():
        modules[name].register_forward_hook(one.watch)
    generator, seen = torch.Generator().manual_seed(0), 0
    with torch.enable_grad(), meter("curvature", images) as bar:
        for index, batch in enumerate(batches):
            inputs = task.inputs(batch)
            size = inputs[0].shape[0]
            for one in sums.values():
                one.start(index % _PARTS, size)
            outputs = on_copies(private, inputs)
            _signal(task, outputs, batch, generator).backward()  # type: ignore[no-untyped-call]
            seen += size
            bar.advance(size)
            if seen >= images:
                break
    if seen == 0:
        raise DataError("the calibration set gave no batch; curvatures need some hundred samples")
    return {name: one.curvature(name, modules[name]) for name, one in sums.items()}


def _signal(task: Task, outputs: Any, batch: Any, generator: torch.Generator) -> Tensor:
    """Give the sum over images of r . z."""
    if not has_known_curvature(task):
        return task.loss(outputs, batch) * task.inputs(batch)[0].shape[0]
    logits = pytree.tree_leaves(outputs)[0].float()
    chances = logits.detach().softmax(-1)
    roots = chances.sqrt()
    signs = torch.randint(0, 2, chances.shape, generator=generator).to(chances) * 2 - 1
    spread = roots * signs
    # (diag(sqrt p) - p sqrt(p)^T) is a root of diag(p) - p p^T.
    return ((spread - chances * spread.sum(-1, keepdim=True)) * logits).sum()


class _Sums:
    """U and V of one layer, added up."""

    def __init__(self) -> None:
        self._outputs: list[Tensor | int] = [0] * _PARTS
        self._inputs: Tensor | int = 0
        self._counts = [0] * _PARTS
        self._part = 0

    def start(self, part: int, images: int) -> None:
        """Begin a batch."""
        self._part = part
        self._counts[part] += images

    def watch(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """See to it that the gradient at the output comes by."""
        if not output.requires_grad:
            output = output.requires_grad_().clone()  # what follows may change it in place
        output.register_hook(  # type: ignore[no-untyped-call]
            partial(self._add, module, inputs[0].detach())
        )
        return output

    def _add(self, module: nn.Module, inputs: Tensor, gradient: Tensor) -> None:
        weight = _weight(module)
        per_image = gradient[0].numel() // weight.shape[0] * weight[0].numel()
        size = max(1, _AT_ONCE // max(per_image, 1))
        for x, g in zip(torch.split(inputs, size), torch.split(gradient, size), strict=True):
            outputs, inner = _factors(module, *_seen(module, x.float(), g.float()))
            self._outputs[self._part] = self._outputs[self._part] + outputs
            self._inputs = self._inputs + inner

    def curvature(self, name: str, module: nn.Module) -> Curvature:
        """Give the means."""
        weight = _weight(module)
        rows, width = weight.shape[0], _width(module)
        empty = weight.new_zeros(rows, rows, dtype=torch.float64)
        used = [part for part in range(_PARTS) if self._counts[part]]
        outputs = torch.stack([empty + self._outputs[p] / self._counts[p] for p in used])
        inner = weight.new_zeros(width, width, dtype=torch.float64) + self._inputs
        if not bool(torch.isfinite(outputs).all() and torch.isfinite(inner).all()):
            raise ModelError(
                f"{name}: the gradient of the outputs is not finite; check the weights and the "
                "data, or add the layer to `ignore`"
            )
        return Curvature(outputs, inner / inner.trace().clamp_min(torch.finfo(inner.dtype).tiny))


def _seen(module: nn.Module, inputs: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Give what meets in the weight: (images, positions, N) and (images, positions, T)."""
    if isinstance(module, nn.Conv2d):
        return patches(module, inputs, _ALL), gradient.flatten(2).transpose(1, 2)
    images = inputs.shape[0]
    return (
        inputs.reshape(images, -1, inputs.shape[-1]),
        gradient.reshape(images, -1, gradient.shape[-1]),
    )


def _factors(module: nn.Module, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Give the sums over images of A A^T, (T, T), and A^T A, (N, N), where A = g^T x."""
    kernel = x.shape[2] // _width(module)
    if g.shape[1] < g.shape[2]:  # few positions: A has a small rank, and is not needed itself
        outputs = torch.einsum("npt,nps->ts", g, (x @ x.transpose(1, 2)) @ g)
        other = (g @ g.transpose(1, 2)) @ x
    else:
        x = g.transpose(1, 2) @ x  # (images, T, N)
        other, rows = x, x.transpose(0, 1).flatten(1)
        outputs = rows @ rows.T
    one, other = (part.reshape(-1, part.shape[2] // kernel, kernel) for part in (x, other))
    return outputs.double(), torch.einsum("rsk,ruk->su", one, other).double()


def _width(module: nn.Module) -> int:
    """Give the rows of V: the weight's columns, or its input channels where they are too many."""
    weight = _weight(module)
    columns = weight[0].numel()
    return columns if columns <= PATCH_LIMIT else weight.shape[1]


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight
