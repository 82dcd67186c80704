"""The methods by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from lissom.extension import Method, find_method
from lissom.methods.ajc import Ajc
from lissom.methods.ajc_settings import AjcSettings
from lissom.methods.edp import Edp, EdpSettings
from lissom.methods.hmc import VARIANTS, Hmc, HmcSettings
from lissom.methods.int8 import Int8
from lissom.methods.int8_options import Int8Options

METHODS: Mapping[str, type] = MappingProxyType({"ajc": Ajc, "edp": Edp, "hmc": Hmc, "int8": Int8})
SETTINGS: Mapping[str, type] = MappingProxyType(
    {"ajc": AjcSettings, "edp": EdpSettings, "hmc": HmcSettings, "int8": Int8Options}
)


def method_called(name: str) -> Method:
    """Give a method with its default settings; ``nahc`` and ``ahc`` are variants of ``hmc``.

    Raises:
        RecipeError: No such method.
    """
    if name in VARIANTS:
        return Hmc(HmcSettings(variant=name))
    known = {**dict.fromkeys(VARIANTS, Hmc), **METHODS}
    made: Any = find_method(name, known)()
    return made
