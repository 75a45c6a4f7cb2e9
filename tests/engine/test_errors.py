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
    JournalUnavailable,
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
    assert kind.retry == (
        kind in {ConnectionRefused, DatabaseUnavailable, DatabaseNotMigrated, JournalUnavailable}
    )


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


@pytest.mark.parametrize(
    ("sqlstate", "said"),
    [
        ("57014", "is_timeout"),
        ("55P03", "is_timeout"),
        ("25P04", "is_timeout"),
        ("40001", "is_conflict"),
        ("40P01", "is_conflict"),
        ("22021", "is_about_rows"),
        ("23514", "is_about_rows"),
        ("53100", None),
        ("42703", None),
        (None, None),
    ],
)
def test_a_database_error_says_what_helps_by_its_sqlstate(sqlstate: str | None, said: str | None) -> None:
    error = DatabaseError("x", sqlstate)
    for name in ("is_timeout", "is_conflict", "is_about_rows"):
        assert getattr(error, name) is (name == said)


def test_a_server_that_gave_no_answer_in_time_is_a_timeout_without_a_sqlstate() -> None:
    assert DatabaseUnavailable("no answer", timed_out=True).is_timeout
