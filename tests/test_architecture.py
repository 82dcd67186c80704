"""Rules of the house that no linter checks. The import contract is `lint-imports`' business."""

import inspect
import re
import tomllib
from pathlib import Path

import pytest

from lissom import errors
from lissom.plan.plan import FORMAT, decision_kinds
from lissom.report.report import SCHEMA

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src").rglob("*.py"))
TEXTS = [
    path
    for folder in ("src", "tests", "docs", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in {".py", ".md", ".txt", ".css", ".json", ".yaml"}
] + sorted(ROOT.glob("*.md"))
# Absolute paths under which people and machines keep checkouts and scratch data.
_MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|Users|root|work|mnt|tmp|data)/\w")


def too_long(lines: int) -> bool:
    return lines > 300


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_file_is_longer_than_300_lines(path: Path) -> None:
    assert not too_long(len(path.read_text().splitlines()))


def test_every_kind_of_decision_is_documented() -> None:
    page = (ROOT / "docs" / "plan-format.md").read_text()
    assert page.startswith(f"# plan.json, format {FORMAT}\n")
    sections = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^### |\Z)", page, re.DOTALL | re.MULTILINE))
    own = {
        kind: decision
        for kind, decision in decision_kinds().items()
        if decision.__module__.startswith("lissom.")
    }
    assert sections.keys() == own.keys()
    for kind, decision in own.items():
        fields = inspect.get_annotations(decision).keys() - {"kind"}
        documented = set(re.findall(r"^\| `(\w+)` \|", sections[kind], re.MULTILINE))
        assert fields <= documented, kind


def test_the_report_page_names_the_current_schema() -> None:
    page = (ROOT / "docs" / "report-schema.md").read_text()
    assert f"`schema` is {SCHEMA}." in page


def test_the_exception_tree_is_drawn_whole() -> None:
    drawn = re.findall(r"^(?:├── |└── )?(\w+)(?:  |$)", errors.__doc__ or "", re.MULTILINE)
    classes = [name for name, value in vars(errors).items() if inspect.isclass(value)]
    assert drawn == classes
    assert all(issubclass(getattr(errors, name), errors.LissomError) for name in classes)


def test_the_changelog_tells_of_the_current_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    top = re.search(r"^## \[([^]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert top is not None
    assert top[1] == project["version"]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 600


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_names_places_of_one_machine(path: Path) -> None:
    assert _MACHINE_PATH.findall(path.read_text(encoding="utf-8")) == []


def test_these_oracles_can_fail() -> None:
    assert too_long(301)
    assert _MACHINE_PATH.search("see /" + "home/me/notes")
    assert not _MACHINE_PATH.search("https://example.org/data/x, lissom/data/x and runs/tmp/x")


def test_tests_have_names_of_their_own() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(set(names)) == sorted(names)
