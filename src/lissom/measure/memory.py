"""Memory that the activations of a running network need."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, UntypedStorage, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lissom.errors import ModelError
from lissom.train.machine import lent


def peak_activation_bytes(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> int:
    """Measure the most bytes of activations that are alive at once during one forward pass.

    The network runs in eval mode without gradients; every tensor that an operator makes is
    followed until the network lets go of its memory. Views count once, in-place operators add
    nothing, and the inputs count throughout, since the caller holds them. Not counted: parameters,
    buffers, and what an operator needs inside itself, such as the workspace of a convolution. The
    figure is that of the network's own code, run operator by operator with the variables that it
    holds on to; a runtime that fuses operators and plans its memory needs less.

    Args:
        model: The network; its modes and values stay as they are.
        example_inputs: What it is called with, usually of batch 1.

    Raises:
        ModelError: The network makes a tensor that is not dense.
    """
    inputs = tuple(part.detach().clone() for part in example_inputs)
    live = _Live()
    for part in inputs:
        live.count(part)
    with lent(model, inputs[0].device), torch.no_grad(), live:
        model.eval()(*inputs)
    return live.peak


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the memory of every operator's results; ``peak`` is the most bytes at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._bytes = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        result = func(*args, **named)
        given = {_storage(tensor)._cdata for tensor in _tensors((args, named))}
        for tensor in _tensors(result):
            # A view, or the result of an in-place operator, perhaps of a parameter.
            if _storage(tensor)._cdata not in given:
                self.count(tensor)
        return result

    def count(self, tensor: Tensor) -> None:
        """Count the memory under ``tensor`` from now until it is given back."""
        storage = _storage(tensor)
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self._bytes += size
        self.peak = max(self.peak, self._bytes)
        weakref.finalize(storage, self._forget, key, size).atexit = False

    def _forget(self, key: int, size: int) -> None:
        self._known.remove(key)
        self._bytes -= size


def _tensors(values: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> UntypedStorage:
    try:
        return tensor.untyped_storage()
    except (RuntimeError, NotImplementedError):
        raise ModelError(
            f"the network makes a tensor of layout {tensor.layout}, whose memory can't be "
            "measured; expected dense tensors: convert it with .to_dense()"
        ) from None
