"""sort_readings: rows of many batches, screened, in the order of the index, and as COPY bytes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine._fastpath import SortedReadings, decode_copy, encode_copy, sort_readings
from engine.readings import Batch, Kind

LEAST_US = 1_000
LATEST_US = 2_000
LATE_BEFORE_US = 1_200
LEAST_TS_US = -210_866_803_200_000_000  # 4714-11-24 BC, where timestamptz begins
MINUTE_US = 60_000_000
PIECE_BYTES = 128 * 1024

Reading = tuple[int, int, int, float | None, str | None]


def batch_of(rows: list[Reading]) -> Batch:
    """Return rows of (ts_us, tag_id, status, value, text_value) as a Batch."""
    return Batch(
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.int32),
        np.array([row[2] for row in rows], np.uint32),
        np.array([0.0 if row[3] is None else row[3] for row in rows], np.float64),
        np.array(
            [(row[3] is not None) * Kind.NUMBER | (row[4] is not None) * Kind.TEXT for row in rows], np.uint8
        ),
        {place: row[4] for place, row in enumerate(rows) if row[4] is not None},
    )


def sort(*batches: Batch, least_us: int = LEAST_US, latest_us: int = LATEST_US) -> SortedReadings:
    """Sort batches that share their limits."""
    return sort_readings(
        batches, least_us, np.full(len(batches), latest_us), np.full(len(batches), LATE_BEFORE_US)
    )


def sort_all(*batches: Batch) -> SortedReadings:
    """Sort batches of any times that there are."""
    return sort(*batches, least_us=LEAST_TS_US, latest_us=2**63 - 1)


def encoded(rows: SortedReadings) -> bytes:
    """Return all rows as COPY bytes."""
    return b"".join(rows.encode(np.array([0]), np.array([len(rows)])))


def plain_copy(rows: list[Reading]) -> bytearray:
    """Return rows as COPY bytes, in the order given."""
    batch = batch_of(rows)
    return encode_copy(batch.ts_us, batch.tag_id, batch.status, batch.value, batch.kind, batch.texts)


def is_text_of_postgres(text: str | None) -> bool:
    """Say whether the database can hold it."""
    return text is None or ("\0" not in text and not any("\ud800" <= each <= "\udfff" for each in text))


tags = st.integers(1, 4) | st.integers(1, 5_000) | st.integers(-(2**31), 2**31 - 1)
times = st.integers(LEAST_US, LATEST_US) | st.sampled_from([-(2**63), LEAST_US - 1, LATEST_US + 1, 2**63 - 1])
texts = st.none() | st.text(max_size=4) | st.sampled_from(["a\0", "\ud800", "b\udc80", "ä€😀"])
rows_strategy = st.lists(
    st.tuples(times, tags, st.integers(0, 2**32 - 1), st.none() | st.floats(), st.none() | texts), max_size=30
)


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(rows_strategy, max_size=4))
def test_rows_are_those_that_python_sorts_and_the_others_are_refused(parts: list[list[Reading]]) -> None:
    everything = [row for part in parts for row in part]
    fits = [
        place
        for place, row in enumerate(everything)
        if LEAST_US <= row[0] <= LATEST_US and is_text_of_postgres(row[4])
    ]
    order = sorted(fits, key=lambda place: (everything[place][1], everything[place][0]))
    expected = [everything[place] for place in order]
    rows = sort(*map(batch_of, parts))
    assert rows.place.tolist() == order
    assert encoded(rows) == plain_copy(expected)
    assert rows.refused_early.tolist() == [i for i, row in enumerate(everything) if row[0] < LEAST_US]
    assert rows.refused_late.tolist() == [i for i, row in enumerate(everything) if row[0] > LATEST_US]
    assert rows.refused_text.tolist() == [
        i
        for i, row in enumerate(everything)
        if LEAST_US <= row[0] <= LATEST_US and not is_text_of_postgres(row[4])
    ]
    assert rows.late == sum(row[0] < LATE_BEFORE_US for row in expected)
    check_runs(rows, expected)


def check_runs(rows: SortedReadings, expected: list[Reading]) -> None:
    """Compare the runs with those of the rows."""
    runs = {tag: [row[0] for row in expected if row[1] == tag] for _, tag, *_ in expected}
    assert rows.tag_id.tolist() == list(runs)
    assert rows.first_us.tolist() == [run[0] for run in runs.values()]
    assert rows.last_us.tolist() == [run[-1] for run in runs.values()]
    assert np.diff(rows.start).tolist() == [len(run) for run in runs.values()]
    assert (rows.start[0], rows.start[-1]) == (0, len(rows))


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32), most_tag=st.sampled_from([1, 20, 3_000, 2**31 - 1]), disorder=st.floats(0, 1)
)
@example(seed=0, most_tag=1, disorder=1.0)
def test_rows_in_any_disorder_are_sorted_and_equal_ones_keep_their_order(
    seed: int, most_tag: int, disorder: float
) -> None:
    random = np.random.default_rng(seed)
    count = int(random.integers(0, 3_000))
    ts_us = np.arange(count) // 3
    moved = np.flatnonzero(random.random(count) < disorder)
    ts_us[moved] = ts_us[random.permutation(moved)]
    batch = numbers(ts_us, random.integers(-most_tag, most_tag, count, endpoint=True, dtype=np.int32))
    cuts = np.sort(random.integers(0, count, 5, endpoint=True))
    parts = [batch.part(int(first), int(end)) for first, end in zip([0, *cuts], [*cuts, count], strict=True)]
    rows = sort_all(*parts)
    assert rows.place.tolist() == np.lexsort((batch.ts_us, batch.tag_id)).tolist()
    assert decode_copy(encoded(rows)).value.tolist() == batch.value[rows.place].tolist()


def numbers(ts_us: NDArray[np.int64], tag_id: NDArray[np.int32]) -> Batch:
    """Return readings whose value is their place."""
    rows = len(ts_us)
    return Batch(
        ts_us, tag_id, np.zeros(rows, np.uint32), np.arange(rows, dtype=np.float64), np.ones(rows, np.uint8)
    )


@pytest.mark.parametrize("rows", [0, 1, 2, 15, 16, 17, 100, 30_000])
def test_times_that_only_fall_are_turned_around(rows: int) -> None:
    sorted_rows = sort_all(numbers(np.arange(rows)[::-1].copy(), np.zeros(rows, np.int32)))
    assert sorted_rows.place.tolist() == list(range(rows))[::-1]


@settings(max_examples=100, deadline=None)
@given(
    ts_us=st.lists(
        st.integers(-3 * MINUTE_US, 3 * MINUTE_US)
        | st.integers(LEAST_TS_US, 2**63 - 1)
        | st.integers(-10, 10).map(lambda minute: minute * MINUTE_US),
        max_size=20,
    )
)
def test_minutes_are_those_of_the_rows_each_once(ts_us: list[int]) -> None:
    rows = sort_all(numbers(np.array(ts_us, np.int64), np.arange(len(ts_us), dtype=np.int32) % 3))
    assert rows.minutes.tolist() == sorted({each // MINUTE_US for each in ts_us})
    assert rows.minutes.dtype == np.int64


@settings(max_examples=100, deadline=None)
@given(rows=rows_strategy, data=st.data())
def test_any_ranges_of_rows_can_be_encoded_one_behind_the_other(rows: list[Reading], data: Any) -> None:
    sorted_rows = sort(batch_of(rows))
    places = st.integers(0, len(sorted_rows))
    ranges = data.draw(st.lists(st.tuples(places, places).map(sorted), max_size=5))
    starts = np.array([first for first, _ in ranges], np.intp)
    ends = np.array([end for _, end in ranges], np.intp)
    expected = [rows[sorted_rows.place[row]] for first, end in ranges for row in range(first, end)]
    assert b"".join(sorted_rows.encode(starts, ends)) == plain_copy(expected)


@pytest.mark.parametrize("text_bytes", [0, 1, 83, 131_003, 131_004, 131_005, 131_025, 131_026, 1_000_000])
def test_copy_bytes_come_in_pieces_that_only_a_large_text_makes_larger(text_bytes: int) -> None:
    text = "x" * text_bytes
    rows: list[Reading] = [
        (LEAST_US + row, 1, 0, 0.5, text if row % 997 == 0 else None) for row in range(6_000)
    ]
    pieces = list(sort_all(batch_of(rows)).encode(np.array([0, 0]), np.array([1, 6_000])))
    assert b"".join(pieces) == plain_copy([rows[0], *rows])
    # Header, a row, its text, trailer.
    assert max(map(len, pieces)) <= max(PIECE_BYTES, 19 + 46 + text_bytes + 2)
    # A piece ends where the next row, or the trailer behind it, would not fit.
    assert all(len(piece) + len(following) > PIECE_BYTES - 2 for piece, following in pairwise(pieces))


@settings(max_examples=100, deadline=None)
@given(rows=rows_strategy, data=st.data())
def test_a_cut_is_the_first_row_of_a_run_that_is_newer(rows: list[Reading], data: Any) -> None:
    sorted_rows = sort(batch_of(rows))
    runs = len(sorted_rows.tag_id)
    newest = data.draw(st.lists(times, min_size=runs, max_size=runs))
    ts_us = batch_of(rows).ts_us[sorted_rows.place]
    bounds = zip(sorted_rows.start[:-1], sorted_rows.start[1:], newest, strict=True)
    assert sorted_rows.cut(np.array(newest, np.int64)).tolist() == [
        first + int(np.sum(ts_us[first:end] <= limit)) for first, end, limit in bounds
    ]


def test_nothing_is_no_rows() -> None:
    for rows in (sort(), sort(batch_of([])), sort(batch_of([]), batch_of([]))):
        assert (len(rows), rows.rows, rows.late, rows.start.tolist()) == (0, 0, 0, [0])
        assert encoded(rows) == plain_copy([])
        assert rows.minutes.tolist() == rows.tag_id.tolist() == rows.place.tolist() == []


def test_rows_outlive_the_batches_that_they_came_from() -> None:
    batch = batch_of([(LEAST_US, 1, 0, 1.0, "".join(["te", "xt"]))])
    rows = sort(batch)
    batch.texts.clear()
    batch.ts_us[:] = 0
    del batch
    assert encoded(rows) == plain_copy([(LEAST_US, 1, 0, 1.0, "text")])


def test_each_batch_has_limits_of_its_own() -> None:
    batch = batch_of([(LEAST_US, 1, 0, 1.0, None)])
    rows = sort_readings([batch] * 3, 0, np.array([999, 1_000, 1_001]), np.array([1_001, 1_000, 1_001]))
    assert (rows.refused_late.tolist(), rows.place.tolist(), rows.late) == ([0], [1, 2], 1)


GOOD = batch_of([(LEAST_US, 1, 0, 1.0, None)] * 2)


def with_column(name: str, column: NDArray[Any]) -> Batch:
    """Return GOOD with another column in the place of one."""
    columns: dict[str, Any] = {name: column}
    return replace(GOOD, **columns)


@pytest.mark.parametrize("name", ["ts_us", "tag_id", "status", "value", "kind"])
def test_a_column_that_is_not_as_it_should_be_is_named(name: str) -> None:
    column = getattr(GOOD, name)
    for wrong in (
        column.astype(np.float32),
        column.astype(column.dtype.newbyteorder()) if name != "kind" else column.astype(np.int8),
        column.reshape(2, 1),
        np.repeat(column, 2)[::2],
    ):
        with pytest.raises(ValueError, match=f"^{name}: "):
            sort(with_column(name, wrong))


@pytest.mark.parametrize("name", ["tag_id", "status", "value", "kind"])
def test_a_column_of_another_length_is_named(name: str) -> None:
    for wrong in (getattr(GOOD, name)[:1], np.repeat(getattr(GOOD, name), 2)):
        with pytest.raises(ValueError, match=f"^{name}: {len(wrong)} rows where ts_us has 2"):
            sort(GOOD, with_column(name, wrong))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"kind": np.array([1, 4], np.uint8)}, "^kind: "),
        ({"kind": np.array([1, 2], np.uint8)}, "^texts: 1 rows announce a text, 0 have one"),
        ({"texts": {0: "x"}}, "^texts: 0 rows announce a text, 1 have one"),
        ({"kind": np.array([1, 2], np.uint8), "texts": {0: "x"}}, "^texts: row 0 has one that its kind"),
        ({"kind": np.array([1, 2], np.uint8), "texts": {2: "x"}}, "^texts: row 2 has one that its kind"),
        ({"kind": np.array([1, 2], np.uint8), "texts": {-1: "x"}}, "^texts: row -1 has one that its kind"),
        ({"kind": np.array([1, 2], np.uint8), "texts": {1: b"x"}}, "^texts: row 1 has one that its kind"),
    ],
)
def test_kinds_and_texts_that_do_not_belong_together_are_named(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        sort(GOOD, replace(GOOD, **changed))


def test_limits_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="least_us"):
        sort(GOOD, least_us=LEAST_TS_US - 1)
    with pytest.raises(ValueError, match="1 batches, 2 of latest_us, 1 of late_before_us"):
        sort_readings([GOOD], 0, np.zeros(2, np.int64), np.zeros(1, np.int64))
    with pytest.raises(TypeError, match="made by sort_readings"):
        SortedReadings()


@pytest.mark.parametrize(("first", "end"), [(-1, 1), (0, 3), (2, 1), (3, 3)])
def test_ranges_outside_of_the_rows_are_refused(first: int, end: int) -> None:
    with pytest.raises(ValueError, match=f"there are no rows {first}:{end}, but 2 rows"):
        sort(GOOD).encode(np.array([0, first]), np.array([1, end]))


def test_another_number_of_places_than_belong_is_refused() -> None:
    with pytest.raises(ValueError, match="2 places where 1 belong"):
        sort(GOOD).encode(np.array([0, 0]), np.array([0]))
    with pytest.raises(ValueError, match="2 places where 1 belong"):
        sort(GOOD).cut(np.array([0, 0]))
