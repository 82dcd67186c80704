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

METHODS: Mapping[str, type] = MappingProxyType({"ajc": Ajc, "edp": Edp, "hmc": Hmc})
SETTINGS: Mapping[str, type] = MappingProxyType(
    {"ajc": AjcSettings, "edp": EdpSettings, "hmc": HmcSettings}
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
