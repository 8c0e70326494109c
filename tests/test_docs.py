"""README, docs and code say the same: every route, setting, error code and command."""

import re
from functools import cache
from pathlib import Path

import pytest

import config
import errors
from tests.routes import registered
from tests.services import ROOT

README = ROOT / "README.md"
ERRORS = ROOT / "docs" / "errors.md"
METHODS = r"GET|POST|PATCH|DELETE|PUT"


@cache
def text(path: Path) -> str:
    """A document. A test fails where it is missing."""
    assert path.exists(), f"{path.relative_to(ROOT)} is missing"
    return path.read_text(encoding="utf-8")


def rows(document: str) -> list[list[str]]:
    """The rows of all Markdown tables in a document, cell by cell."""
    lines = [line.strip() for line in document.splitlines()]
    found = [line.strip("|") for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)] for line in found]


def told_routes() -> set[tuple[str, str]]:
    """(method, path) of every route that the README's tables name.

    A path without a method has that of the one before it in its cell.
    """
    told: set[tuple[str, str]] = set()
    for cell in (row[0] for row in rows(text(README))):
        methods: list[str] = []
        for code in re.findall(r"`([^`]+)`", cell):
            before, _, path = code.rpartition(" ")
            methods = re.findall(METHODS, before) or methods
            if path.startswith("/"):
                told |= {(method, path) for method in methods}
    return told


def real_routes() -> set[tuple[str, str]]:
    return {(row.method, row.path) for row in registered() if row.limit is not None}


def test_every_route_is_in_the_readme() -> None:
    """Method and path of each route stand in a table of README.md."""
    missing = real_routes() - told_routes()
    assert missing == set(), "not in README.md"


def test_the_readme_names_no_route_that_is_not_there() -> None:
    """A route that was taken away goes from the README too."""
    assert told_routes() - real_routes() == set()


def told_settings() -> dict[str, str]:
    """Name → default of every setting, as the README's table tells them, also several a row."""
    found: dict[str, str] = {}
    for row in rows(text(README)):
        names = re.findall(r"`([A-Z][A-Z_]+)`", row[0])
        if not names:
            continue
        defaults = row[1].split(", ")
        assert len(defaults) == len(names), row
        found |= {f"{config.PREFIX}{n}": d for n, d in zip(names, defaults, strict=True)}
    return found


def test_every_setting_is_in_the_readme() -> None:
    """The README's table has each setting, and no other."""
    assert told_settings().keys() == set(config.names())


@pytest.mark.parametrize("setting", config.describe(config.load({})), ids=lambda s: s.name)
def test_a_setting_has_its_default_in_the_readme(setting: config.Setting) -> None:
    """A value that the README gives as the default is the code's; words stand for none."""
    told = told_settings()[setting.name]
    if told.startswith("`"):
        assert told.strip("`").removeprefix("./") == setting.default
    else:
        assert setting.default in ("none", "SQLite in DATA_DIR"), (told, setting.default)


def test_settings_in_the_docs_are_settings() -> None:
    """Whatever a document calls FILAVIVA_… is one, and a number behind it is its default."""
    defaults = {s.name: s.default for s in config.describe(config.load({}))}
    for path in sorted((ROOT / "docs").glob("*.md")):
        told = re.findall(r"`(FILAVIVA_[A-Z_]+)`(?: \(([\d,]+)\))?", text(path))
        for name, number in told:
            if name != "FILAVIVA_PUBLISH":  # of compose.yaml
                assert defaults.get(name), (path.name, name)
                assert number in ("", f"{int(defaults[name]):,}" if number else ""), (name, number)


# Tests have problems of their own.
CODES = [
    code for code, kind in errors.catalogue().items() if not kind.__module__.startswith("tests")
]


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_error_code_is_in_the_docs(code: str) -> None:
    """docs/errors.md has a row for each code, with every status it comes with."""
    kind = errors.catalogue()[code]
    statuses = {one.status for one in (kind, *kind.__subclasses__()) if one.code == code}
    found = [row for row in rows(text(ERRORS)) if any(f"`{code}`" in cell for cell in row)]
    assert found, f"{code} is not in docs/errors.md"
    told = " ".join(cell for row in found for cell in row)
    for status in statuses:
        assert str(status) in told, (code, status)


def test_the_docs_name_no_code_that_is_not_there() -> None:
    """A code that was taken away goes from docs/errors.md too."""
    told: set[str] = set()
    for row in rows(text(ERRORS)):
        told |= {name for cell in row[:2] for name in re.findall(r"`([a-z]+(?:_[a-z]+)*)`", cell)}
    assert told <= errors.catalogue().keys()


def test_what_the_story_writes_is_no_part_of_the_project() -> None:
    """The README's commands write into the folder that neither git nor an image takes in."""
    shown = re.findall(r"```bash\n(.*?)```", text(README), re.DOTALL)
    written = re.findall(r" > (\S+)", "\n".join(shown))
    assert written
    assert {name.partition("/")[0] for name in written} == {"data"}
    assert "/data/" in text(ROOT / ".gitignore").splitlines()


def test_links_inside_the_docs_lead_somewhere() -> None:
    """Every relative link of README and docs is a file of the project."""
    for path in (README, *sorted((ROOT / "docs").glob("*.md"))):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text(path)):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
