"""Networks by name: ``lissom:resnet20``, ``torchvision:resnet50``, ``timm:convnext_tiny``."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from torch import nn

from lissom.errors import ModelError
from lissom.models.mobilenet_v2_cifar import MobileNetV2
from lissom.models.outside import timm_model, torchvision_model
from lissom.models.resnet8 import ResNet8
from lissom.models.resnet18 import ResNet18
from lissom.models.resnet_cifar import digits_resnet, resnet_cifar
from lissom.models.vgg_cifar import VGG16

LISSOM_MODELS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        "digits_resnet": digits_resnet,
        "mobilenet_v2": MobileNetV2,
        "resnet8": ResNet8,
        "resnet18": ResNet18,
        "resnet20": partial(resnet_cifar, 20),
        "resnet32": partial(resnet_cifar, 32),
        "resnet44": partial(resnet_cifar, 44),
        "resnet56": partial(resnet_cifar, 56),
        "resnet110": partial(resnet_cifar, 110),
        "vgg16_bn": VGG16,
    }
)

_LIBRARIES: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {"torchvision": torchvision_model, "timm": timm_model}
)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a network wants its images: (scale * pixel - mean) / std, with pixels 0..255.

    Attributes:
        mean: Per channel, in units of the scaled pixel.
        std: Per channel, in units of the scaled pixel.
        scale: Factor on the pixels: 1/255, or 1 for raw values.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1 / 255


_RAW_PIXELS = Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), scale=1.0)
_IMAGENET = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def build_model(spec: str, **arguments: Any) -> nn.Module:
    """Build a network with fresh weights.

    Args:
        spec: ``lissom:NAME``, ``torchvision:NAME`` or ``timm:NAME``.
        arguments: Passed to its constructor, ``classes=100`` say.

    Raises:
        ModelError: Unknown name (the nearest known ones are given), library not installed, or
            arguments that the constructor does not take.
    """
    library, colon, name = spec.partition(":")
    if not colon or library not in ("lissom", *_LIBRARIES):
        raise ModelError(
            f"{spec!r} names no network: write lissom:NAME, torchvision:NAME or timm:NAME"
            + _suggest("lissom:", name if colon else library, LISSOM_MODELS)
        )
    if library in _LIBRARIES:
        return _LIBRARIES[library](name, **arguments)
    if name not in LISSOM_MODELS:
        known = ", ".join(LISSOM_MODELS)
        nearest = _suggest("lissom:", name, LISSOM_MODELS)
        raise ModelError(f"lissom has no network {name!r}; known: {known}{nearest}")
    try:
        return LISSOM_MODELS[name](**arguments)
    except TypeError as error:
        raise ModelError(
            f"{spec}: can't be built with the arguments {arguments}: {error}"
        ) from error


def preprocessing(spec: str) -> Preprocessing | None:
    """Give what a ``lissom:`` network expects of colour images.

    None, for all others, means that the data set's own default will do.
    """
    library, _, name = spec.partition(":")
    if library != "lissom" or name == "digits_resnet":
        return None
    return _RAW_PIXELS if name == "resnet8" else _IMAGENET


def _suggest(prefix: str, name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, tuple(known), n=3)
    return f" (did you mean {', '.join(prefix + n for n in near)}?)" if near else ""
