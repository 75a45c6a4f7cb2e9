"""What the house asks of every file and a linter does not check."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("engine", "workers", "migrations", "bench", "fuzz", "tests")
MOST_LINES = 500
VAGUE = {"utils", "util", "common", "helpers", "helper", "manager", "misc", "base"}


def files(*suffixes: str) -> list[Path]:
    return sorted(
        path
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.suffix in suffixes and "node_modules" not in path.parts and "__pycache__" not in path.parts
    )


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_no_file_is_two_things() -> None:
    long = {
        named(path): lines
        for path in files(".py", ".pyi", ".pyx", ".pxi", ".pxd", ".sql")
        if (lines := path.read_text("utf-8").count("\n")) > MOST_LINES
    }
    assert long == {}


def test_every_module_says_what_it_owns() -> None:
    silent = [
        named(path)
        for path in files(".py", ".pyi", ".pyx")
        if (text := path.read_text("utf-8")).strip() and not _docstring(path, text)
    ]
    assert silent == []


def _docstring(path: Path, text: str) -> bool:
    if path.suffix == ".pyx":
        return text.lstrip().startswith(('"""', 'r"""', "# cython")) and '"""' in text
    return bool(ast.get_docstring(ast.parse(text)))


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert [named(path) for path in files(".py", ".pyx") if path.stem in VAGUE] == []


@pytest.mark.parametrize("room", ["engine", "workers"])
def test_what_a_module_offers_is_explained(room: str) -> None:
    silent = [
        f"{named(path)}: {node.name}"
        for path in sorted((ROOT / room).rglob("*.py"))
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and ast.get_docstring(node) is None
    ]
    assert silent == []
