"""docs/faults.md: every fault of the catalogue has a row, and every test that it names exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
FAULTS = 49
_ROW = re.compile(r"^\| (\d+) \|([^|]+)\|([^|]+)\|([^|]*)\|([^|]*)\|$", re.MULTILINE)
_TEST = re.compile(r"`([^`:]+)::([^`]+)`")
# There is nothing here yet that could fail so; the remark says why.
_NOT_MADE = {49}


def _rows() -> list[tuple[int, str, str]]:
    """Return number, tests and remarks of each row."""
    text = (ROOT / "docs" / "faults.md").read_text("utf-8")
    return [(int(number), tests, remarks.strip()) for number, _, _, tests, remarks in _ROW.findall(text)]


@cache
def _tests_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text("utf-8"))
    functions = [each for each in tree.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {each.name for each in functions if each.name.startswith("test_")}


def test_every_fault_has_a_row() -> None:
    assert [number for number, _, _ in _rows()] == list(range(1, FAULTS + 1))


def test_every_row_names_a_test_or_says_why_there_is_none() -> None:
    without = {number: remarks for number, tests, remarks in _rows() if not _TEST.search(tests)}
    assert set(without) == _NOT_MADE
    assert all(without.values())


def test_every_test_that_is_named_exists() -> None:
    missing = [
        f"{number}: {file}::{name}"
        for number, tests, _ in _rows()
        for file, name in _TEST.findall(tests)
        if not (ROOT / "tests" / file).exists() or name not in _tests_in(file)
    ]
    assert missing == []
