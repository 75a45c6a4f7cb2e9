"""Ring: rows come out as they went in, whatever the order of appends and drains."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine._fastpath import Ring
from engine.readings import Kind, RawBatch


def batch(first: int, rows: int) -> RawBatch:
    """Return rows numbered from `first`; each third one has a text."""
    number = np.arange(first, first + rows)
    has_text = number % 3 == 0
    return RawBatch(
        ts_us=number * 10,
        slot=number.astype(np.uint32),
        status=(number + 1).astype(np.uint32),
        value=number / 2,
        kind=np.where(has_text, Kind.TEXT, Kind.NUMBER).astype(np.uint8),
        texts={row: f"text {first + row}" for row in range(rows) if has_text[row]},
    )


@settings(max_examples=100, deadline=None)
@given(capacity=st.integers(1, 17), steps=st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=30))
def test_a_ring_behaves_as_a_queue_of_rows(capacity: int, steps: list[tuple[bool, int]]) -> None:
    ring = Ring(capacity)
    model: deque[int] = deque()
    put = 0
    for is_append, rows in steps:
        if is_append and rows <= capacity:
            taken = ring.append(batch(put, rows))
            assert taken == (len(model) + rows <= capacity)
            if taken:
                model.extend(range(put, put + rows))
                put += rows
        elif not is_append:
            drained = ring.drain(rows)
            wanted = [model.popleft() for _ in range(min(rows, len(model)))]
            assert drained.slot.tolist() == wanted
            assert drained.ts_us.tolist() == [number * 10 for number in wanted]
            assert drained.status.tolist() == [number + 1 for number in wanted]
            assert drained.value.tolist() == [number / 2 for number in wanted]
            assert drained.texts == {i: f"text {n}" for i, n in enumerate(wanted) if n % 3 == 0}
            assert all(bool(drained.kind[row] & Kind.TEXT) for row in drained.texts)
        assert len(ring) == len(model)
        assert ring.free_rows == capacity - len(model)


def test_what_was_drained_is_not_touched_by_later_rows() -> None:
    ring = Ring(4)
    ring.append(batch(0, 4))
    drained = ring.drain(4)
    ring.append(batch(100, 4))
    assert drained.slot.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_ring_without_room_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="capacity_rows"):
        Ring(capacity)


def test_a_ring_larger_than_memory_is_refused() -> None:
    with pytest.raises(MemoryError):
        Ring(2**60)


def test_a_batch_larger_than_the_ring_is_an_error_and_not_a_wait() -> None:
    with pytest.raises(ValueError, match="5 rows never fits into a ring of 4"):
        Ring(4).append(batch(0, 5))


def test_a_negative_number_of_rows_to_drain_is_refused() -> None:
    with pytest.raises(ValueError, match="most_rows"):
        Ring(4).drain(-1)


def test_columns_of_different_lengths_are_refused() -> None:
    good = batch(1, 2)
    with pytest.raises(ValueError, match="different lengths"):
        Ring(4).append(RawBatch(good.ts_us, good.slot[:1], good.status, good.value, good.kind))


@pytest.mark.parametrize("texts", [{}, {0: "a", 1: "b"}, {5: "a"}, {-1: "a"}])
def test_texts_that_do_not_match_the_kinds_are_refused(texts: dict[int, str]) -> None:
    good = batch(0, 2)
    ring = Ring(4)
    with pytest.raises(ValueError, match="text"):
        ring.append(RawBatch(good.ts_us, good.slot, good.status, good.value, good.kind, texts))
    assert len(ring) == 0
