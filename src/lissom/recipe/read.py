"""YAML and command-line values to a recipe; messages name the place and the line."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ValidationError

from lissom.errors import LissomError, RecipeError
from lissom.recipe.recipe import Recipe
from lissom.recipe.settings import explained

Factories = Literal["refused", "allowed"]

_LIBRARIES = ("lissom", "torchvision", "timm")


def read_recipe(
    path: Path | None,
    overrides: Iterable[tuple[str, Any]] = (),
    *,
    factories: Factories = "refused",
) -> Recipe:
    """Read a recipe and put what the command line says on top.

    Args:
        path: YAML file; None starts from nothing.
        overrides: (dotted place, value) pairs, ``("recover.epochs", 3)``.
        factories: Whether the FILE may name ``package.module:factory``, which runs that code.
            Overrides always may: the user typed them.

    Raises:
        RecipeError: Unreadable, an unknown key, a wrong type, or a factory that is refused.
        BudgetError: The budget means nothing.
        DataError: An option of the data set is out of range.
    """
    text = _text(path) if path is not None else "{}"
    content, lines = _parsed(text, path)
    if factories == "refused":
        _refuse_factories(content, path)
    try:
        for place, value in overrides:
            _put(content, place, value)
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise RecipeError(_located(explained(error, known=_known_keys), path, lines)) from None
    except LissomError as error:
        raise type(error)(_located(str(error), path, lines)) from None


def parse_override(text: str) -> tuple[str, Any]:
    """Read ``recover.epochs=3`` into place and value; the value is read as YAML.

    Raises:
        RecipeError: There is no ``=``, or the value is not YAML.
    """
    place, equals, value = text.partition("=")
    if not equals or not place.strip():
        raise RecipeError(f"--set {text!r}: expected PLACE=VALUE, for example recover.epochs=3")
    try:
        return place.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {text!r}: the value is not YAML ({_oneline(error)})") from None


def parse_bits(text: str) -> dict[str, Any]:
    """Read ``weights=8,activations=8`` into the stage of a recipe that it stands for.

    Raises:
        RecipeError: Something else.
    """
    known = {"weights": "weight_bits", "activations": "activation_bits"}
    stage: dict[str, Any] = {"method": "int8"}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        if name not in known or not value.isdigit():
            raise RecipeError(
                f"--bits {text!r}: expected weights=N,activations=8 with N from 2 to 8, or one of "
                "the two; without weights=N they are 8, and levels chosen by ajc stay"
            )
        stage[known[name]] = int(value)
    return stage


def is_factory(name: str) -> bool:
    """Say whether ``name`` is ``package.module:factory``: using it runs that code."""
    prefix, colon, _ = name.partition(":")
    return bool(colon) and prefix not in _LIBRARIES


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise RecipeError(
            f"{path}: can't be read ({reason}); expected a recipe in YAML, or give --model and "
            "--data instead"
        ) from None


def _parsed(text: str, path: Path | None) -> tuple[dict[str, Any], dict[str, int]]:
    """Give the content and the line of each dotted place."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not YAML ({_oneline(error)})") from None
    if not isinstance(content, dict):
        raise RecipeError(
            f"{path}: holds a {type(content).__name__}; expected keys such as model, data, budget"
        )
    lines: dict[str, int] = {}
    if node is not None:
        _note_lines(node, "", lines)
    return content, lines


def _note_lines(node: yaml.Node, place: str, lines: dict[str, int]) -> None:
    pairs: list[tuple[str, yaml.Node, yaml.Node]] = []
    if isinstance(node, yaml.MappingNode):
        pairs = [(str(key.value), key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        pairs = [(str(index), entry, entry) for index, entry in enumerate(node.value)]
    for name, mark, value in pairs:
        inner = f"{place}.{name}" if place else name
        lines[inner] = mark.start_mark.line + 1
        _note_lines(value, inner, lines)


def _refuse_factories(content: dict[str, Any], path: Path | None) -> None:
    for key in ("model", "data", "teacher"):
        section = content.get(key)
        name = section.get("name") if isinstance(section, dict) else section
        if isinstance(name, str) and is_factory(name):
            raise RecipeError(
                f"{path}: {key} is {name!r}, which runs code of that package; "
                "add --allow-import if you trust this recipe"
            )


def _put(content: dict[str, Any], place: str, value: Any) -> None:
    """Set ``value`` at a dotted place; sections that are not there yet are made."""
    *outer, last = place.split(".")
    spot: Any = content
    for depth, part in enumerate(outer):
        spot = _step_into(spot, part, ".".join(outer[: depth + 1]))
    if isinstance(spot, list):
        spot[_index(spot, last, place)] = value
    else:
        spot[last] = value


def _step_into(spot: Any, part: str, place: str) -> Any:
    key: Any = _index(spot, part, place) if isinstance(spot, list) else part
    inner = spot[key] if isinstance(spot, list) else spot.get(key)
    if isinstance(inner, str):
        # ``model: lissom:resnet20`` is short for ``model: {name: ...}``.
        inner = {"method" if place.startswith("stages") else "name": inner}
    if inner is None:
        inner = ["hmc"] if place == "stages" else {}  # what a recipe without stages stands for
    if not isinstance(inner, (dict, list)):
        raise RecipeError(f"{place}: holds {inner!r}, which has no parts to set")
    spot[key] = inner
    return inner


def _index(entries: list[Any], part: str, place: str) -> int:
    if not part.isdigit() or int(part) >= len(entries):
        raise RecipeError(f"{place}: expected a number below {len(entries)} (one per entry)")
    return int(part)


def _known_keys(place: tuple[int | str, ...]) -> Collection[str]:
    """Give the keys of the section at ``place``."""
    section: type[BaseModel] = Recipe
    for part in place:
        field = section.model_fields.get(part) if isinstance(part, str) else None
        if field is not None:
            candidates = (field.annotation, *get_args(field.annotation))
            section = next(
                one for one in candidates if isinstance(one, type) and issubclass(one, BaseModel)
            )
    return [name for name in section.model_fields if name != "options"]


def _located(message: str, path: Path | None, lines: dict[str, int]) -> str:
    """Put file and line before a message that starts with a dotted place."""
    if path is None:
        return message
    place = message.partition(":")[0]
    while place and place not in lines:
        place = place.rpartition(".")[0]
    return f"{path}:{lines[place]}: {message}" if place else f"{path}: {message}"


def _oneline(error: yaml.YAMLError) -> str:
    return " ".join(str(error).split())
