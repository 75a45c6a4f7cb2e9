"""The error tree: what callers may rely on, and that its drawing is true."""

from __future__ import annotations

import inspect
import re

import pytest

from engine import errors
from engine.errors import (
    ConnectionRefused,
    DatabaseError,
    DatabaseNotMigrated,
    DatabaseUnavailable,
    InvalidInput,
    MalformedMessage,
    NotFound,
    ScadaError,
)

ALL = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, ScadaError)]


def drawn() -> dict[str, str]:
    """Map each error of the drawing in the module's docstring to the one above it."""
    parents: dict[str, str] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"    ([│├└─ ]*)(\w+)", line)
        if not found:
            continue
        depth = len(found[1]) // 4
        above = [*above[:depth], found[2]]
        if depth:
            parents[found[2]] = above[depth - 1]
    return parents


def test_the_drawing_shows_every_error_under_its_parent() -> None:
    assert drawn() == {kind.__name__: kind.__bases__[0].__name__ for kind in ALL if kind is not ScadaError}


@pytest.mark.parametrize("kind", ALL)
def test_a_retry_makes_sense_exactly_where_the_tree_says_so(kind: type[ScadaError]) -> None:
    assert kind.retry == (kind in {ConnectionRefused, DatabaseUnavailable, DatabaseNotMigrated})


def test_an_invalid_input_begins_with_its_field() -> None:
    error = NotFound("well_id", "there is no well 7")
    assert str(error) == "well_id: there is no well 7"
    assert error.field == "well_id"
    assert isinstance(error, InvalidInput)


def test_a_malformed_message_names_the_byte() -> None:
    error = MalformedMessage("array of 7 elements", 132)
    assert str(error) == "array of 7 elements at byte 132"
    assert error.offset == 132


def test_a_database_error_carries_its_sqlstate() -> None:
    assert DatabaseError("x", "53300").sqlstate == "53300"
    assert DatabaseUnavailable("no server").sqlstate is None
