"""What a run leaves behind while it works, so that it can be resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lissom.errors import LissomError, RecipeError
from lissom.export.files import write_files
from lissom.pipeline.stage_folder import StageFolder

_RUN = "run.json"


@dataclass(frozen=True, slots=True)
class Workspace:
    """A folder for a run's intermediate results.

    Attributes:
        folder: Made when work starts.
        identity: What is asked of the run, JSON-ready.
    """

    folder: Path
    identity: Mapping[str, Any] = field(default_factory=dict)

    @property
    def begun(self) -> bool:
        """Tell whether a stage has left anything here."""
        return any(self.folder.glob("stage*/*"))

    def stage(self, index: int, iteration: int = 0) -> StageFolder:
        """Give the folder of a stage, or of one of its iterations.

        Args:
            index: Of the stage, from 0.
            iteration: From 1; 0 of a stage that goes its way at once.
        """
        suffix = f"-iteration{iteration}" if iteration else ""
        return StageFolder(self.folder / f"stage{index}{suffix}")

    def check(self, facts: Mapping[str, Any] | None = None) -> None:
        """Refuse to continue a run of which something else was asked.

        Args:
            facts: What else the run depends on, JSON-ready.

        Raises:
            RecipeError: Names the first setting that differs.
        """
        noted = self._noted()
        if noted is None:
            return
        for key, value in sorted(self._settings(facts or {}).items()):
            if noted.get(key) != value:
                raise RecipeError(
                    f"{self.folder}: was started with {key} = {noted.get(key)!r}, now it is "
                    f"{value!r}; resume with the same settings, or choose another folder"
                )

    @contextmanager
    def claimed(self, facts: Mapping[str, Any]) -> Iterator[None]:
        """Note what the run is while it works; an error before any result leaves nothing behind.

        Args:
            facts: What the run depends on besides ``identity``, JSON-ready.

        Raises:
            RecipeError: As ``check``.
            LissomError: The folder can't be written to.
        """
        self.check(facts)
        path = self.folder / _RUN
        made = [place for place in (self.folder, *self.folder.parents) if not place.exists()]
        try:
            if not path.exists():
                write_files({path: json.dumps(self._settings(facts), indent=1).encode()})
            yield
        except LissomError:
            if not any(self.folder.glob("stage*")):
                with suppress(OSError):
                    path.unlink(missing_ok=True)
                    for place in made:
                        place.rmdir()
            raise

    def _settings(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        return dict(_flat({**facts, **self.identity}))

    def _noted(self) -> Mapping[str, Any] | None:
        path = self.folder / _RUN
        if not path.exists():
            return None
        try:
            noted: Any = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise LissomError(
                f"{path}: can't be read ({error}); choose another folder, or delete this one to "
                "start anew"
            ) from None
        return noted if isinstance(noted, dict) else {}


def _flat(values: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted places and what stands there, as JSON would give it back."""
    if isinstance(values, Mapping) and values:
        for key, value in values.items():
            yield from _flat(value, f"{place}.{key}" if place else str(key))
    elif isinstance(values, (list, tuple)) and any(isinstance(v, Mapping) for v in values):
        yield from _flat({str(index): value for index, value in enumerate(values)}, place)
    else:
        yield place, json.loads(json.dumps(values))
