"""What a layer's output meets next, seen on one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def norms_behind(
    model: nn.Module, layers: Iterable[str], example_inputs: tuple[Tensor, ...]
) -> dict[str, str]:
    """Name, per layer, the batch normalization that reads its very output, and alone does.

    Args:
        model: In eval mode; it is run, not changed.
        layers: Names of modules that give one tensor.
        example_inputs: Inputs of any batch size.

    Returns:
        Layers without such a norm, or that run more than once, are missing.
    """
    outputs: dict[int, str] = {}
    readers = _Readers()
    alive: list[Tensor] = []  # keeps addresses from being used twice
    runs: dict[str, int] = {}
    found: dict[str, str] = {}

    def wrote(name: str, output: Tensor) -> None:
        runs[name] = runs.get(name, 0) + 1
        outputs[id(output)] = name
        readers.counts[id(output)] = 0
        alive.append(output)

    def read(name: str, inputs: tuple[Any, ...]) -> None:
        source = outputs.get(id(inputs[0]))
        if source is not None:
            found[source] = name

    with _hooks() as hooks:
        for name in layers:
            hooks.append(
                model.get_submodule(name).register_forward_hook(
                    lambda _m, _i, output, name=name: wrote(name, output)
                )
            )
        for name, module in model.named_modules():
            if isinstance(module, _BatchNorm):
                hooks.append(
                    module.register_forward_pre_hook(
                        lambda _m, inputs, name=name: read(name, inputs)
                    )
                )
        with readers:
            _run(model, example_inputs)
    alone = {name for key, name in outputs.items() if readers.counts[key] == 1}
    return {n: norm for n, norm in found.items() if runs[n] == 1 and n in alone}


def layer_inputs(
    model: nn.Module, layers: Iterable[str], example_inputs: tuple[Tensor, ...]
) -> Mapping[str, tuple[Tensor, ...]]:
    """Give everything that each layer read in one forward pass, one tensor per call.

    Layers that never ran are missing.
    """
    seen: dict[str, tuple[Tensor, ...]] = {}

    def note(name: str, inputs: tuple[Any, ...]) -> None:
        seen[name] = (*seen.get(name, ()), inputs[0].detach().clone())

    with _hooks() as hooks:
        for name in layers:
            hooks.append(
                model.get_submodule(name).register_forward_pre_hook(
                    lambda _m, inputs, name=name: note(name, inputs)
                )
            )
        _run(model, example_inputs)
    return seen


def channels_first(inputs: Tensor, count: int) -> Tensor:
    """Give what a layer reads with its ``count`` channels first."""
    axis = 1 if inputs.dim() > 2 and inputs.shape[1] == count else inputs.dim() - 1
    return inputs.movedim(axis, 0)


class _Readers(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types there
    """Counts how many operators read each of the tensors that it is told of."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: dict[int, int] = {}  # by id

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        for given in tree_leaves((args, kwargs)):
            if id(given) in self.counts:
                self.counts[id(given)] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def _hooks() -> Iterator[list[Any]]:
    hooks: list[Any] = []
    try:
        yield hooks
    finally:
        for hook in hooks:
            hook.remove()


def _run(model: Callable[..., Any], example_inputs: tuple[Tensor, ...]) -> None:
    with torch.no_grad():
        model(*example_inputs)


def output_scales(model: nn.Module, norm: str | None) -> Tensor | None:
    """Give |gamma| / sigma of a batch norm, (T,); None where there is none that scales."""
    module = model.get_submodule(norm) if norm else None
    if not isinstance(module, _BatchNorm) or module.running_var is None or module.weight is None:
        return None
    return module.weight.detach().abs() / (module.running_var + module.eps).sqrt()
