"""Networks that other packages build: torchvision, timm, the user's own factory."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from types import ModuleType
from typing import Any

import torch
from torch import nn

from lissom.errors import ModelError

# Operator definitions live as long as this object.
_definitions: list[torch.library.Library] = []


def torchvision_model(name: str, **arguments: Any) -> nn.Module:
    """Build ``torchvision.models.NAME`` without weights, auxiliary heads as the library decides.

    Raises:
        ModelError: torchvision is not installed, or has no such network.
    """
    models = _torchvision().models
    known = models.list_models()
    if name not in known:
        raise ModelError(_unknown("torchvision", name, known))
    return _built(f"torchvision:{name}", models.get_model, name, {"weights": None, **arguments})


def timm_model(name: str, **arguments: Any) -> nn.Module:
    """Build ``timm.create_model(NAME, pretrained=False)``.

    Raises:
        ModelError: timm is not installed, or has no such network.
    """
    _torchvision()  # timm imports it, and a CPU build of torch needs the repair first
    timm = _imported("timm")
    if not timm.is_model(name):
        raise ModelError(_unknown("timm", name, timm.list_models()))
    return _built(f"timm:{name}", timm.create_model, name, arguments)


def build_from_factory(spec: str, **arguments: Any) -> nn.Module:
    """Call the user's own factory. This imports, that is runs, the user's code.

    Args:
        spec: ``package.module:factory``.
        arguments: Passed to the factory.

    Raises:
        ModelError: Malformed, not importable, not callable, or what it returns is no ``nn.Module``.
    """
    model = call_factory(spec, **arguments)
    if not isinstance(model, nn.Module):
        raise ModelError(f"{spec} returned a {type(model).__name__}, expected a torch.nn.Module")
    return model


def call_factory(spec: str, **arguments: Any) -> object:
    """Import what ``package.module:factory`` names and call it.

    Raises:
        ModelError: Malformed, not importable, not callable, or not with these arguments.
    """
    module_name, _, attribute = spec.partition(":")
    if not module_name or not attribute:
        raise ModelError(f"{spec!r} names no factory: write package.module:factory")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ModelError(
            f"{spec}: {error}; give an importable module (is its folder on PYTHONPATH?) "
            "and a name in it"
        ) from error
    if not callable(factory):
        raise ModelError(f"{spec} is a {type(factory).__name__}, expected a callable")
    try:
        inspect.signature(factory).bind(**arguments)
    except TypeError as error:
        raise ModelError(
            f"{spec}: can't be built with the arguments {arguments}: {error}"
        ) from error
    except ValueError:  # a callable in C tells no signature; calling it will do
        pass
    return factory(**arguments)


def _built(spec: str, factory: Any, name: str, arguments: dict[str, Any]) -> nn.Module:
    try:
        return factory(name, **arguments)
    except TypeError as error:
        raise ModelError(
            f"{spec}: can't be built with the arguments {arguments}: {error}"
        ) from error


def _unknown(library: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    return f"{library} has no network {name!r}{hint}"


def _imported(package: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ModelError(
            f"{package} is not installed; its networks need it: pip install {package} "
            "(with the same torch pinned, or pip may replace it)"
        ) from error


def _torchvision() -> ModuleType:
    """Import torchvision also where its compiled operators do not fit the installed torch."""
    try:
        return _imported("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    # The wheels are built for CUDA. Models need no more than that the two operators exist.
    library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _definitions.append(library)
    for half_imported in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
        del sys.modules[half_imported]
    return _imported("torchvision")
