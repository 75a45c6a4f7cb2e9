"""Numbers of enumerations get their names as text, and nothing else changes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from engine.enumerations import Enumerations
from engine.readings import Kind, RawBatch

STATES = {0: "Stopped", 1: "Running", -1: "Failed"}
FOUR_SLOTS = np.arange(4, dtype=np.uint32)


def batch(*rows: tuple[int, float], kind: Kind = Kind.NUMBER) -> RawBatch:
    """Return a raw batch of (slot, value) rows."""
    return RawBatch(
        ts_us=np.zeros(len(rows), np.int64),
        slot=np.array([slot for slot, _ in rows], np.uint32),
        status=np.zeros(len(rows), np.uint32),
        value=np.array([value for _, value in rows], np.float64),
        kind=np.full(len(rows), kind, np.uint8),
    )


def test_a_number_with_a_name_keeps_its_number_and_gets_the_name() -> None:
    enumerations = Enumerations()
    enumerations.learn(FOUR_SLOTS, {1: STATES, 3: {7: "Seven"}})
    rows = batch((0, 1.0), (1, 1.0), (1, 0.0), (1, -1.0), (3, 7.0), (2, 7.0), (900, 1.0))
    enumerations.name(rows)
    assert rows.texts == {1: "Running", 2: "Stopped", 3: "Failed", 4: "Seven"}
    assert rows.kind.tolist() == [1, 3, 3, 3, 3, 1, 1]
    assert rows.value.tolist() == [1.0, 1.0, 0.0, -1.0, 7.0, 7.0, 1.0]


@pytest.mark.parametrize("value", [5.0, 0.5, math.nan, math.inf, 1e300])
def test_a_number_without_a_name_stays_a_number(value: float) -> None:
    enumerations = Enumerations()
    enumerations.learn(FOUR_SLOTS, {1: STATES})
    rows = batch((1, value))
    enumerations.name(rows)
    assert (rows.texts, rows.kind.tolist()) == ({}, [Kind.NUMBER])


@pytest.mark.parametrize("kind", [Kind.NULL, Kind.TEXT, Kind.NUMBER | Kind.TEXT])
def test_what_is_no_plain_number_is_left_as_it_is(kind: Kind) -> None:
    enumerations = Enumerations()
    enumerations.learn(FOUR_SLOTS, {1: STATES})
    rows = batch((1, 1.0), kind=kind)
    enumerations.name(rows)
    assert (rows.texts, rows.kind.tolist()) == ({}, [kind])


def test_what_a_connection_knew_before_is_replaced_and_that_of_others_kept() -> None:
    enumerations = Enumerations()
    enumerations.learn(np.array([5, 2], np.uint32), {0: STATES, 1: STATES})
    enumerations.learn(np.array([7], np.uint32), {0: {1: "On"}})
    enumerations.learn(np.array([5, 2], np.uint32), {1: {1: "Open"}})
    rows = batch((5, 1.0), (2, 1.0), (7, 1.0))
    enumerations.name(rows)
    assert rows.texts == {1: "Open", 2: "On"}
    enumerations.forget(np.array([5, 2, 7], np.uint32))
    assert len(enumerations) == 0


def test_an_empty_batch_and_empty_names_are_no_trouble() -> None:
    enumerations = Enumerations()
    enumerations.learn(FOUR_SLOTS, {2: {}})
    assert len(enumerations) == 0
    enumerations.name(batch())
    enumerations.learn(FOUR_SLOTS, {2: STATES})
    enumerations.name(batch())


def test_a_slot_that_no_tenant_can_have_is_refused() -> None:
    with pytest.raises(ValueError, match="4294967295"):
        Enumerations().learn(np.array([0xFFFFFFFF], np.uint32), {0: STATES})
