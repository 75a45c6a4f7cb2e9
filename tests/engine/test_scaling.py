"""Scaling against a slow, obvious oracle: one reading at a time, in plain Python floats."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.readings import Kind, RawBatch
from engine.scaling import TagTable

numbers = st.floats(width=64, allow_nan=True, allow_infinity=True)
factors = st.floats(-1e15, 1e15, allow_nan=False)
tags = st.tuples(st.integers(1, 2**31 - 1), factors, factors)


def raw_of(slots: list[int], values: list[float]) -> RawBatch:
    return RawBatch(
        ts_us=np.arange(len(slots), dtype=np.int64),
        slot=np.array(slots, np.uint32),
        status=np.arange(len(slots), dtype=np.uint32),
        value=np.array(values, np.float64),
        kind=np.full(len(slots), Kind.NUMBER, np.uint8),
        texts={0: "kept"} if slots else {},
    )


def slots_of(table: TagTable, mapped: list[tuple[int, float, float]]) -> NDArray[np.uint32]:
    """Ask for the slots of several tags with their scaling at once."""
    tag_id, factor, offset = zip(*mapped, strict=True) if mapped else ((), (), ())
    return table.slots(
        np.array(tag_id, np.int32),
        scaling_factor=np.array(factor, np.float64),
        offset=np.array(offset, np.float64),
    )


def same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


@given(st.data(), st.lists(tags, min_size=1, max_size=200))
def test_every_value_is_scaled_as_its_own_tag_says(
    data: st.DataObject, mapped: list[tuple[int, float, float]]
) -> None:
    table = TagTable()
    slots = [table.slot(tag_id, scaling_factor=factor, offset=offset) for tag_id, factor, offset in mapped]
    chosen = data.draw(st.lists(st.tuples(st.integers(0, len(mapped) - 1), numbers), max_size=50))
    batch = table.scale(raw_of([slots[place] for place, _ in chosen], [value for _, value in chosen]))
    assert len(batch) == len(chosen)
    for row, (place, raw) in enumerate(chosen):
        tag_id, factor, offset = mapped[place]
        assert batch.tag_id[row] == tag_id
        assert same(float(batch.value[row]), raw * factor + offset)


@given(st.lists(tags, max_size=300))
def test_a_tag_with_the_same_scaling_keeps_its_slot_and_slots_are_dense(
    mapped: list[tuple[int, float, float]],
) -> None:
    table = TagTable()
    first = [table.slot(tag_id, scaling_factor=factor, offset=offset) for tag_id, factor, offset in mapped]
    again = [table.slot(tag_id, scaling_factor=factor, offset=offset) for tag_id, factor, offset in mapped]
    assert first == again
    assert sorted(set(first)) == list(range(len(table)))


@given(
    st.lists(st.lists(st.tuples(st.integers(1, 20), *[st.sampled_from([-1.0, 0.5, 2.0])] * 2)), max_size=8)
)
def test_many_tags_at_once_get_the_slots_that_a_dictionary_would_give(
    calls: list[list[tuple[int, float, float]]],
) -> None:
    table = TagTable()
    oracle: dict[tuple[int, float, float], int] = {}
    for mapped in calls:
        slots = slots_of(table, mapped)
        assert slots.dtype == np.uint32
        for key, slot in zip(mapped, slots.tolist(), strict=True):
            assert oracle.setdefault(key, slot) == slot
        assert sorted(oracle.values()) == list(range(len(table)))
    batch = table.scale(raw_of(list(oracle.values()), [10.0] * len(oracle)))
    assert batch.tag_id.tolist() == [tag_id for tag_id, _, _ in oracle]
    assert batch.value.tolist() == [10.0 * factor + offset for _, factor, offset in oracle]


def test_a_tag_takes_less_than_thirty_bytes() -> None:
    table = TagTable()
    for first in range(0, 100_000, 10_000):
        slots_of(table, [(tag_id, 0.1, 5.0) for tag_id in range(first, first + 10_000)])
    assert len(table) == 100_000
    assert table.nbytes / len(table) < 30


def test_a_batch_from_before_a_change_of_scaling_is_scaled_as_it_was() -> None:
    table = TagTable()
    before = table.slot(7, scaling_factor=0.1)
    after = table.slot(7, scaling_factor=0.2, offset=5)
    batch = table.scale(raw_of([before, after], [100.0, 100.0]))
    assert batch.tag_id.tolist() == [7, 7]
    assert batch.value.tolist() == [10.0, 25.0]


def test_a_table_that_grows_keeps_what_it_had() -> None:
    table = TagTable()
    slots = [table.slot(tag_id, scaling_factor=tag_id, offset=-tag_id) for tag_id in range(1, 5_001)]
    batch = table.scale(raw_of(slots, [2.0] * len(slots)))
    assert batch.tag_id.tolist() == list(range(1, 5_001))
    assert batch.value.tolist() == [float(tag_id) for tag_id in range(1, 5_001)]


def test_all_other_columns_pass_through() -> None:
    table = TagTable()
    raw = raw_of([table.slot(1)] * 3, [1.0, 2.0, 3.0])
    batch = table.scale(raw)
    assert batch.ts_us is raw.ts_us
    assert batch.status is raw.status
    assert batch.kind is raw.kind
    assert batch.texts == {0: "kept"}


def test_the_raw_values_are_not_changed() -> None:
    table = TagTable()
    raw = raw_of([table.slot(1, scaling_factor=10)], [1.5])
    table.scale(raw)
    assert raw.value.tolist() == [1.5]


def test_an_overflow_becomes_infinity_without_a_warning() -> None:
    table = TagTable()
    batch = table.scale(raw_of([table.slot(1, scaling_factor=1e15)], [1e300]))
    assert batch.value.tolist() == [math.inf]


def test_an_empty_batch_stays_empty() -> None:
    table = TagTable()
    assert len(table.scale(raw_of([], []))) == 0
