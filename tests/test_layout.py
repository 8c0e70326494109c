"""The house stays in order: who may import whom, and which names may not be taken."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services import ROOT

LEVELS = (
    {"buckets", "config", "errors", "folding", "ids", "instants", "logs", "metrics", "texts"},
    {"models", "database", "hub", "pages"},
    {"schemas", "events", "auth", "outlets"},
    {"actions", "customers", "sheet", "stock", "streams"},
    {"catalogue", "favourites", "processes"},
    {"accounts", "carts"},
    {"moves"},
    {"queues"},
    {"audit", "rates", "writer"},
    {"orders", "snapshots", "upkeep"},
    {"asyncapi", "demo", "doctor", "edge", "openapi", "service"},
    {"main", "cli"},
)
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
MODULES = sorted(ROOT.glob("*.py"))

ONLY_IN = {  # a package → the one file that may import it
    "fastapi": "main",
    "starlette": "main",
    "slowapi": "main",
    "sse_starlette": "main",
    "jinja2": "pages",
    "jose": "auth",
    "limits": "buckets",
    "prometheus_client": "metrics",
    "pydantic_settings": "config",
}
TAKEN = {"queue", "token", "redis", "types", "signal", "secrets", "jose"}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(path: Path) -> Iterator[str]:
    """The top-level package of each import, also of those inside functions."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: the modules are flat, no relative imports"
            yield (node.module or "").split(".")[0]


def environment_reads(path: Path) -> Iterator[int]:
    """The lines that look at the environment of the process."""
    for node in ast.walk(tree(path)):
        match node:
            case ast.Attribute(
                value=ast.Name(id="os"), attr="environ" | "environb" | "getenv" | "putenv"
            ):
                yield node.lineno
            case ast.ImportFrom(module="os", names=names):
                if {name.name for name in names} & {"environ", "environb", "getenv", "putenv"}:
                    yield node.lineno
            case _:
                pass


def named(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_every_module_has_a_level(path: Path) -> None:
    """A new file is given its place in the house before it is used."""
    assert path.stem in LEVEL


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_a_module_imports_lower_levels_only(path: Path) -> None:
    """No circle can form: a file imports only files of a lower level."""
    own = LEVEL.get(path.stem, 0)
    assert [name for name in imported(path) if LEVEL.get(name, -1) >= own] == []


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_a_library_is_known_to_one_file(path: Path) -> None:
    """HTTP lives in main, tokens in auth, settings in config: a change stays in one file."""
    assert [name for name in imported(path) if ONLY_IN.get(name, path.stem) != path.stem] == []


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_one_reader_of_the_environment(path: Path) -> None:
    """Settings come from `config` alone."""
    assert path.stem == "config" or list(environment_reads(path)) == []


def test_no_name_shadows_a_library() -> None:
    """No file or folder at the top is named like a module that something else imports."""
    ours = {path.stem for path in MODULES} | {
        path.name for path in ROOT.iterdir() if any(path.glob("*.py"))
    }
    assert ours & (TAKEN | sys.stdlib_module_names) == set()


def test_nobody_imports_the_tests() -> None:
    """The service runs without its tests."""
    assert [path.name for path in MODULES if "tests" in imported(path)] == []
