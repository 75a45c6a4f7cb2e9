"""Batches as packed columns and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ScadaError
from engine.readings import Batch, Kind
from scada.v1.readings_pb2 import ReadingColumns
from tests.workers.rpc.conftest import assert_same, joined, readings_of_every_sort
from workers.rpc.columns import batch_of, columns_of, parts_of

ROW = st.tuples(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(0, 2**32 - 1),
    st.floats(),
    st.sampled_from([Kind.NULL, Kind.NUMBER, Kind.TEXT, Kind.NUMBER | Kind.TEXT]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
)


def batch_from(rows: list[tuple[int, int, int, float, Kind, str]]) -> Batch:
    ts_us, tag_id, status, value, kind, texts = zip(*rows, strict=True) if rows else ([],) * 6
    return Batch(
        ts_us=np.array(ts_us, dtype=np.int64),
        tag_id=np.array(tag_id, dtype=np.int32),
        status=np.array(status, dtype=np.uint32),
        value=np.array(value, dtype=np.float64),
        kind=np.array(kind, dtype=np.uint8),
        texts={row: text for row, text in enumerate(texts) if kind[row] & Kind.TEXT},
    )


@given(st.lists(ROW, max_size=200))
def test_a_batch_comes_back_as_it_was_sent(rows: list[tuple[int, int, int, float, Kind, str]]) -> None:
    batch = batch_from(rows)
    sent = columns_of(batch).SerializeToString()
    assert_same(batch_of(ReadingColumns.FromString(sent)), batch)


@given(st.lists(ROW, min_size=1, max_size=100), st.integers(1, 2_000))
def test_parts_keep_every_row_and_their_limit(
    rows: list[tuple[int, int, int, float, Kind, str]], most_bytes: int
) -> None:
    batch = batch_from(rows)
    parts = list(parts_of(batch, most_bytes))
    assert_same(joined(parts), batch)
    for part in parts:
        # Five fields' keys and lengths come on top, and a null_row of up to two bytes for each row.
        assert len(part) == 1 or columns_of(part).ByteSize() <= most_bytes + 30 + 2 * len(part)


def test_columns_of_numbers_are_what_the_library_itself_would_make() -> None:
    batch = readings_of_every_sort([1, 2, 3])
    by_the_library = ReadingColumns(
        time_us=batch.ts_us.tolist(),
        tag_id=batch.tag_id.tolist(),
        status=batch.status.tolist(),
        value=batch.value.tolist(),
        null_row=np.flatnonzero((batch.kind & Kind.NUMBER) == 0).tolist(),
        text_row=sorted(batch.texts),
        text_value=[batch.texts[row] for row in sorted(batch.texts)],
    )
    assert columns_of(batch).SerializeToString() == by_the_library.SerializeToString()


@pytest.mark.parametrize(
    "broken",
    [
        ReadingColumns(time_us=[1, 2], tag_id=[1], status=[0, 0], value=[0.0, 0.0]),
        ReadingColumns(time_us=[1], tag_id=[1], status=[0], value=[0.0], null_row=[1]),
        ReadingColumns(time_us=[1], tag_id=[1], status=[0], value=[0.0], text_row=[1], text_value=["x"]),
        ReadingColumns(time_us=[1], tag_id=[1], status=[0], value=[0.0], text_row=[0]),
    ],
)
def test_columns_that_do_not_fit_together_are_refused(broken: ReadingColumns) -> None:
    with pytest.raises(ScadaError, match="do not fit together"):
        batch_of(broken)
