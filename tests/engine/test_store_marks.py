"""Lanes as numbers: whatever is committed in whatever order, they cover it, do not overlap, and end as one."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.store.marks import FIRST_LANE, Lane, moved, opened, place_of

TWO = (Lane(0, 300), Lane(400, 450))


@pytest.mark.parametrize(
    ("after", "place"),
    [(0, 0), (400, 1), (200, 0), (300, 0), (301, None), (399, None), (450, 1), (451, None)],
)
def test_the_lane_behind_a_point_begins_there_or_has_come_past_it(after: int, place: int | None) -> None:
    assert place_of(TWO, after) == place


def test_a_new_lane_goes_where_its_frames_are() -> None:
    assert opened(TWO, 500) == (*TWO, Lane(500, 500))
    assert opened(TWO, 350) == (Lane(0, 300), Lane(350, 350), Lane(400, 450))


def test_lanes_that_meet_become_one() -> None:
    assert moved(TWO, 0, 399) == (Lane(0, 399), Lane(400, 450))
    assert moved(TWO, 0, 400) == (Lane(0, 450),)
    assert moved(TWO, 1, 500) == (Lane(0, 300), Lane(400, 500))
    assert moved((*TWO, Lane(450, 460)), 0, 400) == (Lane(0, 460),)


def test_a_mark_never_goes_back() -> None:
    assert moved(TWO, 1, 420) == TWO


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10)), max_size=40))
def test_lanes_cover_exactly_what_was_committed(steps: list[tuple[int, int]]) -> None:
    """The oracle is the set of all sequences up to 30."""
    lanes: tuple[Lane, ...] = (FIRST_LANE,)
    committed: set[int] = set()
    for after, length in steps:
        place = place_of(lanes, after)
        if place is None:
            lanes = opened(lanes, after)
            place = place_of(lanes, after)
            assert place is not None
        behind = lanes[place + 1].after if place + 1 < len(lanes) else 99
        end = min(after + length, behind)
        committed |= set(range(lanes[place].mark + 1, end + 1))
        lanes = moved(lanes, place, end)
        covered = [number for lane in lanes for number in range(lane.after + 1, lane.mark + 1)]
        assert len(covered) == len(set(covered))
        assert set(covered) == committed
        assert all(one.after <= one.mark < other.after for one, other in pairwise(lanes))
