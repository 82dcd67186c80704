"""Mappings to frozen settings dataclasses; messages name the place and the nearest known key."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from lissom.errors import LissomError, RecipeError

T = TypeVar("T")


def settings_from(
    cls: type[T], given: Mapping[str, Any], where: str, *, beside: Collection[str] = ()
) -> T:
    """Make a settings dataclass of a mapping; each value is checked by its field's type.

    Args:
        cls: A frozen dataclass; what its ``__post_init__`` refuses is passed on with the place.
        given: Values by field name, as YAML or the command line gives them.
        where: Dotted place of ``given`` in the recipe, for messages (``stages.0``).
        beside: Further keys that stand beside the fields, for the suggestion of a near one.

    Raises:
        RecipeError: An unknown key (names the nearest known one), or a value of the wrong type.
    """
    hints = get_type_hints(cls)
    own = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in own:
            raise RecipeError(f"{where}.{name}: {unknown_key(str(name), [*own, *beside])}")
        try:
            values[name] = _adapter(hints[name]).validate_python(_unyaml(value, hints[name]))
        except ValidationError as error:
            raise RecipeError(f"{where}.{explained(error, name)}") from None
    try:
        return cls(**values)
    except LissomError as error:
        raise type(error)(f"{where}: {error}") from None
    except TypeError as error:
        raise RecipeError(f"{where}: {error}; give the missing settings") from None


def unknown_key(name: str, known: Collection[str]) -> str:
    """Say that ``name`` is not known, with the nearest known key or all of them."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"unknown key; did you mean {near[0]!r}?"
    return f"unknown key; known are {', '.join(sorted(known))}"


def explained(
    error: ValidationError,
    prefix: str = "",
    known: Callable[[tuple[int | str, ...]], Collection[str]] = lambda _place: (),
) -> str:
    """Give ``place: what is wrong`` of the first problem.

    Args:
        error: What pydantic found.
        prefix: Place of what was validated.
        known: Gives the keys that the object at a place knows.
    """
    problems = error.errors(include_url=False, include_context=False)
    # A misspelt key also leaves the right one missing; the misspelling is the news.
    first = next((one for one in problems if one["type"] == "extra_forbidden"), problems[0])
    place = first["loc"]
    # A union's members are listed in the place; they mean nothing to who wrote the recipe.
    dotted = ".".join(str(part) for part in (prefix, *place) if part != "" and _is_key(part))
    if first["type"] == "extra_forbidden":
        return f"{dotted}: {unknown_key(str(place[-1]), known(place[:-1]))}"
    if first["type"] == "missing":
        return f"{dotted}: missing; give it in the recipe or on the command line"
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{dotted}: {message}, got {first['input']!r:.60}"


def _is_key(part: int | str) -> bool:
    return isinstance(part, int) or (not any(sign in part for sign in "[(-") and part not in _TYPES)


_TYPES = frozenset({"int", "str", "float", "bool", "none"})


def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint, config=ConfigDict(coerce_numbers_to_str=True))


def _unyaml(value: Any, hint: Any) -> Any:
    """Undo what YAML 1.1 reads into the words yes and no, where a text is expected."""
    allowed = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if isinstance(value, bool) and bool not in allowed and str in allowed:
        return "yes" if value else "no"
    return value
