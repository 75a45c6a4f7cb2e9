"""Readings over REST, compared row by row with what was stored."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import numpy as np
import psycopg
import pytest

from engine.readings import Batch, Kind, quality_of
from tests.workers.rest.conftest import ACME, World
from tests.workers.rest.rest_process import Answer, RunningRest
from tests.workers.rpc.conftest import END_US, ROWS, START_US, STEP_US
from workers.rest import rows
from workers.rest.schemas import ReadingView

START_MS, END_MS = START_US // 1_000, END_US // 1_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def iso(us: int) -> str:
    return (_EPOCH + timedelta(microseconds=us)).isoformat(timespec="microseconds").replace("+00:00", "Z")


def asked(rest: RunningRest, world: World, **query: object) -> Answer:
    names = {"start": "from"}
    wanted: dict[str, object] = {"wellId": world.wells[0], "from": START_MS, "to": END_MS}
    wanted |= {names.get(name, name): value for name, value in query.items()}
    return rest.get("/scada/readings", ACME, **wanted)


def expected_of(world: World, well: int) -> list[dict[str, Any]]:
    """Return the stored readings of a well as rows."""
    with psycopg.connect(world.databases.tenant_dsn) as tenant:
        found = tenant.execute(
            "select tag_id, well_id::text, opc_node_id, tag_name, unit from tag_mappings"
        ).fetchall()
    names = {tag_id: rest for tag_id, *rest in found}
    expected = []
    stored = world.stored
    for row in range(len(stored)):
        well_id, node_id, name, unit = names[int(stored.tag_id[row])]
        if well_id != str(world.wells[well]):
            continue
        has_number = bool(stored.kind[row] & Kind.NUMBER) and bool(np.isfinite(stored.value[row]))
        expected.append(
            {
                "timestamp": iso(int(stored.ts_us[row])),
                "wellId": well_id,
                "tagNodeId": node_id,
                "value": float(stored.value[row]) if has_number else None,
                "quality": quality_of(int(stored.status[row])).label,
                "tagName": name,
                "unit": unit,
            }
            | ({"textValue": stored.texts[row]} if row in stored.texts else {})
        )
    return expected


def test_pages_lead_to_every_reading_of_the_well_as_it_was_stored(rest: RunningRest, world: World) -> None:
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        answer = asked(rest, world, limit=4_999, cursor=cursor)
        found += answer.json
        cursor = answer.headers["X-Next-Cursor"]
        if cursor is None:
            break
        assert len(answer.json) == 4_999
    assert len(found) == ROWS // 2
    assert found == expected_of(world, 0)
    for row in found[:200]:
        ReadingView.model_validate(row)


def test_without_a_limit_a_page_has_a_thousand(rest: RunningRest, world: World) -> None:
    answer = asked(rest, world)
    assert len(answer.json) == 1_000
    assert answer.headers["X-Next-Cursor"]


def test_without_to_the_range_ends_now_on_every_page(rest: RunningRest, world: World) -> None:
    start_us = int(world.stored.ts_us[-1]) - STEP_US
    expected = [row for row in expected_of(world, 0) if row["timestamp"] >= iso(start_us)]
    query = {"wellId": world.wells[0], "from": iso(start_us), "limit": 5}
    first = rest.get("/scada/readings", ACME, **query)
    second = rest.get("/scada/readings", ACME, **query, cursor=first.headers["X-Next-Cursor"])
    assert first.json + second.json == expected
    assert second.headers["X-Next-Cursor"] is None


def test_times_may_be_iso_or_milliseconds_and_the_end_does_not_belong(
    rest: RunningRest, world: World
) -> None:
    first, end = START_US + 5 * STEP_US, START_US + 7 * STEP_US
    expected = [row for row in expected_of(world, 0) if iso(first) <= row["timestamp"] < iso(end)]
    assert len(expected) == 10
    moment = _EPOCH + timedelta(microseconds=first)
    for start in (first // 1_000, iso(first), moment.isoformat(), iso(first).removesuffix("Z")):
        assert asked(rest, world, start=start, to=iso(end)).json == expected


@pytest.mark.parametrize(
    ("field", "query"),
    [
        ("wellId", {"wellId": "Permian"}),
        ("from", {"start": "yesterday"}),
        ("from", {"start": ""}),
        ("from", {"start": END_MS}),
        ("from", {"start": "9" * 400}),
        ("to", {"to": "2026-11-23T25:00:00Z"}),
        ("to", {"to": START_MS + 4_000 * 86_400_000}),
        ("limit", {"limit": 10_001}),
        ("limit", {"limit": "ten"}),
        ("cursor", {"cursor": "zz"}),
        ("cursor", {"cursor": "x" * 201}),
        ("well_id", {"well_id": "x"}),
    ],
)
def test_what_does_not_fit_is_named(
    rest: RunningRest, world: World, field: str, query: dict[str, object]
) -> None:
    assert asked(rest, world, **query).problem[:2] == (400, field)


def test_wellid_and_from_are_required(rest: RunningRest) -> None:
    answer = rest.get("/scada/readings", ACME)
    assert answer.status == 400
    assert [each["field"] for each in answer.json["error"]["problems"]] == ["wellId", "from"]


def test_a_cursor_of_another_request_is_refused(rest: RunningRest, world: World) -> None:
    cursor = asked(rest, world).headers["X-Next-Cursor"]
    assert asked(rest, world, to=END_MS - 1, cursor=cursor).problem[:2] == (400, "cursor")


def test_a_well_that_is_not_there_is_404(rest: RunningRest, world: World) -> None:
    assert asked(rest, world, wellId=uuid4()).problem[:2] == (404, "wellId")


def test_the_wells_of_another_tenant_are_not_there(rest: RunningRest, world: World) -> None:
    query = {"wellId": world.wells[0], "from": START_MS, "to": END_MS}
    assert rest.get("/scada/readings", {"X-Tenant": "zenith"}, **query).problem[:2] == (404, "wellId")


def batch_of_texts(*texts: str) -> Batch:
    count = len(texts)
    return Batch(
        ts_us=np.arange(count, dtype=np.int64),
        tag_id=np.ones(count, dtype=np.int32),
        status=np.zeros(count, dtype=np.uint32),
        value=np.zeros(count),
        kind=np.full(count, Kind.TEXT, dtype=np.uint8),
        texts=dict(enumerate(texts)),
    )


def test_a_page_of_long_texts_ends_early_but_never_empty() -> None:
    long = "x" * (rows.TEXT_MOST_BYTES // 2 - 1)
    assert rows.fitting(batch_of_texts("a", "b", "c"), 2) == 2
    assert rows.fitting(batch_of_texts("a", "b", "c"), 9) == 3
    assert rows.fitting(batch_of_texts(long, long, long, long), 4) == 2
    assert rows.fitting(batch_of_texts(long * 5, "a"), 2) == 1
