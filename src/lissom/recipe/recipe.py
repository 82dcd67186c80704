"""The recipe as validated objects.

model: {name: lissom:resnet56, weights: resnet56.safetensors}   # or just the name
data: {name: cifar10, dir: data/cifar, batch_size: 128}
stages: [{method: hmc, tau: 0.3}]
budget: {macs: 0.5}
recover: {epochs: 5}
seed: 0
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from lissom.data.options import DataOptions
from lissom.errors import RecipeError
from lissom.measure.latency import Conditions
from lissom.plan.budget import Budget
from lissom.recipe.iterations import brief_epochs, check_iterations
from lissom.recipe.settings import settings_from
from lissom.train.settings import TrainSettings

T = TypeVar("T")

_VARIANTS = ("nahc", "ahc", "ahc_sum")
_SHARED = ("seed", "device")
_OF_STAGE = ("method", "iterations", "iteration_epochs")


class Section(BaseModel):
    """A part of a recipe: frozen, and no key that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class ModelSection(Section):
    """A network and where its weights come from.

    Attributes:
        name: ``lissom:NAME``, ``torchvision:NAME``, ``timm:NAME``, a folder that lissom wrote, or
            ``package.module:factory``.
        weights: .safetensors, .pt or .pth file; None: as the constructor leaves them.
        arguments: For the constructor.
    """

    name: str
    weights: Path | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _accept_a_name(cls, given: Any) -> Any:
        return {"name": given} if isinstance(given, str) else given


class DataSection(Section):
    """A data set.

    Attributes:
        name: A built-in set, or ``package.module:factory``.
        dir: Folder of its files.
        options: Fields of ``DataOptions``; in YAML they stand beside ``name``.
    """

    name: str
    dir: Path | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, given: Any) -> Any:
        return _gathered({"name": given} if isinstance(given, str) else given, ("name", "dir"))

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        settings_from(DataOptions, self.options, "data", beside=("name", "dir"))
        return self


class Stage(Section):
    """One method of a run.

    Attributes:
        method: ``hmc``; ``nahc``, ``ahc`` and ``ahc_sum`` are read as variants of it.
        iterations: In how many the way to its budget is gone, each with sensitivities of its own.
        iteration_epochs: Of the recovery after each but the last; None: a tenth of
            ``recover.epochs``, rounded up.
        options: Fields of the method's settings; in YAML they stand beside ``method``.
    """

    method: str
    iterations: int = Field(default=1, strict=True)
    iteration_epochs: int | None = Field(default=None, strict=True)
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, given: Any) -> Any:
        section = _gathered({"method": given} if isinstance(given, str) else given, _OF_STAGE)
        if isinstance(section, dict) and section.get("method") in _VARIANTS:
            variant, options = section["method"], section["options"]
            if options.get("variant", variant) != variant:
                raise ValueError(f"method {variant} is hmc with variant {variant}: drop one")
            return section | {"method": "hmc", "options": options | {"variant": variant}}
        return section

    @model_serializer(mode="wrap")
    def _leave_one_unsaid(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = write(self)
        unsaid = _OF_STAGE[1:] if self.iterations == 1 else ()
        return {key: value for key, value in content.items() if key not in unsaid}

    def settings(self, cls: type[T], where: str) -> T:
        """Give the options as the method's settings.

        Args:
            cls: Frozen dataclass of the method's settings.
            where: Place of this stage, for messages (``stages.0``).

        Raises:
            RecipeError: An option is unknown or has the wrong type.
        """
        return settings_from(cls, self.options, where, beside=_OF_STAGE)


class Recipe(Section):
    """Everything that a run is asked for.

    Attributes:
        model: The network to compress.
        data: What it is measured and recovered on.
        stages: Methods, one after another.
        budget: ``Budget`` keys to limits as the user wrote them.
        recover: Fields of ``TrainSettings`` besides ``seed`` and ``device``.
        seed: Of everything random.
        device: ``auto``, ``cpu``, ``cuda``, ...
        teacher: Network to distil from; None: the original.
        ignore: Layers whose output channels and rank stay; their inputs shrink with what they read.
        round_to: Alignment of channels and ranks: ``auto``, or an integer (1 = free).
        input: Shapes of the network's inputs (``1x3x224x224``); None: as the data set has them.
        latency: Fields of ``Conditions``: ``runtime``, ``batch``, ``threads``, ``runs``,
            ``warmup``.
        allow_slower: Whether to decide what saves MACs, parameters or bytes but costs time.
    """

    model: ModelSection
    data: DataSection
    stages: tuple[Stage, ...] = Field(default_factory=lambda: (Stage(method="hmc"),), min_length=1)
    budget: dict[str, str | float]
    recover: dict[str, Any] = Field(default_factory=dict)
    seed: int = Field(default=0, ge=0)
    device: str = "auto"
    teacher: ModelSection | None = None
    ignore: tuple[str, ...] = ()
    round_to: Literal["auto"] | int = "auto"
    input: str | None = None
    latency: dict[str, Any] = Field(default_factory=dict)
    allow_slower: bool = False

    @field_validator("budget", mode="before")
    @classmethod
    def _check_budget(cls, given: Any) -> Any:
        if not isinstance(given, (str, Mapping)):
            return given
        limits = Budget.parse(given)
        return {name: limit["text"] for name, limit in limits.to_dict().items()}

    @field_validator("round_to")
    @classmethod
    def _check_round_to(cls, given: str | int) -> str | int:
        if isinstance(given, int) and given < 1:
            raise ValueError("expected auto or an integer of at least 1")
        return given

    @model_validator(mode="after")
    def _check_stages(self) -> Self:
        for index, stage in enumerate(self.stages):
            try:
                check_iterations(stage.iterations, stage.iteration_epochs)
            except RecipeError as error:
                raise RecipeError(f"stages.{index}: {error}") from None
        return self

    @model_validator(mode="after")
    def _check_recover(self) -> Self:
        self.train_settings()
        self.conditions()
        return self

    @property
    def limits(self) -> Budget:
        """Give the budget."""
        return Budget.parse(self.budget)

    def train_settings(self) -> TrainSettings:
        """Give the settings of recovery, with the recipe's seed and device.

        Raises:
            RecipeError: A setting is unknown or out of range.
        """
        for name in _SHARED:
            if name in self.recover:
                raise RecipeError(
                    f"recover.{name}: stands at the top of a recipe, for all phases ({name}: ...)"
                )
        shared = {name: getattr(self, name) for name in _SHARED}
        return settings_from(TrainSettings, shared | self.recover, "recover")

    def conditions(self) -> Conditions:
        """Give how latency is measured.

        Raises:
            RecipeError: A field is unknown or out of range.
        """
        try:
            return settings_from(Conditions, self.latency, "latency")
        except ValueError as error:
            raise RecipeError(f"latency.{error}") from error

    def data_options(self) -> DataOptions:
        """Give the options of the data set, with the recipe's seed unless they have their own."""
        return settings_from(DataOptions, {"seed": self.seed} | self.data.options, "data")

    def to_yaml(self, stage_settings: Sequence[Any] = ()) -> str:
        """Give the effective recipe: every setting spelled out, so that it repeats the run.

        Args:
            stage_settings: The settings dataclass of each stage; without it a stage shows only
                what was asked.
        """
        content = self.model_dump(mode="json")
        content["data"] = _spread(content["data"], asdict(self.data_options()))
        training = asdict(self.train_settings())
        for index, stage in enumerate(content["stages"]):
            full = asdict(stage_settings[index]) if index < len(stage_settings) else {}
            if "iterations" in stage:
                asked = stage["iteration_epochs"]
                stage["iteration_epochs"] = brief_epochs(asked, training["epochs"])
            content["stages"][index] = _spread(stage, full)
        content["recover"] = {key: training[key] for key in training if key not in _SHARED}
        content["latency"] = asdict(self.conditions())
        return yaml.safe_dump(_plain(content), sort_keys=False, allow_unicode=True)


def _gathered(given: Any, own: Collection[str]) -> Any:
    """Move the keys that are not the section's own into ``options``."""
    if not isinstance(given, Mapping):
        return given
    options = dict(given.get("options", {}))
    options |= {key: given[key] for key in given if key not in own and key != "options"}
    return {key: given[key] for key in given if key in own} | {"options": options}


def _spread(section: dict[str, Any], full: Mapping[str, Any]) -> dict[str, Any]:
    options = section.pop("options")
    return section | dict(full or options)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value
