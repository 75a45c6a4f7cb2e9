"""The QuarantineService as a client sees it: a real front, a real database."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import uuid4

import grpc
import psycopg
import pytest

from scada.v1 import quarantine_pb2 as pb
from scada.v1.quarantine_pb2_grpc import QuarantineServiceStub
from tests.workers.rpc.conftest import ACME, World, moment
from tests.workers.rpc.front_process import RunningFront
from tests.workers.rpc.test_readings import refusal

ZENITH = (("x-tenant", "zenith"),)
# Beyond all readings of the world, so that what is stored here can be told from them.
LATER_US = 1_765_000_000_000_000
CAME_US = 1_777_636_800_000_000  # 2026-05-01 12:00Z
FILTER = pb.QuarantineFilter
LIST, RETRY, DROP = pb.ListQuarantinedRequest, pb.RetryQuarantinedRequest, pb.DropQuarantinedRequest


@pytest.fixture
def stub(front: RunningFront) -> Any:
    return QuarantineServiceStub(front.channel)  # type: ignore[no-untyped-call]


@pytest.fixture
def acme(world: World) -> Iterator[psycopg.Connection[Any]]:
    """The tenant's database, with an empty quarantine."""
    with psycopg.connect(world.databases.tenant_dsn, autocommit=True) as connection:
        connection.execute("truncate reading_quarantine restart identity")
        yield connection
        connection.execute("truncate reading_quarantine restart identity")
        connection.execute(
            "delete from readings where ts >= %s", [datetime.fromtimestamp(LATER_US // 1_000_000, UTC)]
        )


def quarantine(connection: psycopg.Connection[Any], *rows: dict[str, Any]) -> None:
    for place, given in enumerate(rows):
        row = {
            "tag_id": 1,
            "ts_us": LATER_US,
            "value": 1.0,
            "text": None,
            "reason": "rejected",
            "state": None,
        } | given
        connection.execute(
            """
            insert into reading_quarantine (stream, sequence, place, tag_id, ts_us, status, value, text_bytes, reason,
                sqlstate, detail, quarantined_at)
            values (gen_random_uuid(), 9, %s, %s, %s, -2147483648, %s, %s, %s, %s, 'so it was', '2026-05-01 12:00Z')
            """,
            [place, row["tag_id"], row["ts_us"], row["value"], row["text"], row["reason"], row["state"]],
        )


def counted(connection: psycopg.Connection[Any], query: str) -> int:
    found = connection.execute(f"select count(*) from {query}").fetchone()
    assert found is not None
    return int(found[0])


def stored(connection: psycopg.Connection[Any]) -> int:
    return counted(connection, f"readings where ts >= to_timestamp({LATER_US // 1_000_000})")


def test_a_row_comes_with_everything_that_is_known_of_it(
    stub: Any, acme: psycopg.Connection[Any], world: World
) -> None:
    quarantine(
        acme,
        {"ts_us": -(2**63), "value": None, "text": b"\xff" * 2_000, "reason": "text", "state": "22021"},
        {"tag_id": None, "ts_us": None, "value": None, "reason": "journal"},
    )
    note, row = stub.ListQuarantined(LIST(), metadata=ACME, timeout=30).rows
    assert (row.id, row.reason, row.sqlstate, row.detail) == (
        1,
        pb.QUARANTINE_REASON_TEXT,
        "22021",
        "so it was",
    )
    assert (row.tag_id, row.tag_name != "", row.well_id) == (1, True, str(world.wells[0]))
    assert (row.time_us, row.status, row.HasField("value")) == (-(2**63), 0x8000_0000, False)
    assert (row.text_begin, row.text_size) == (b"\xff" * 1_024, 2_000)
    assert row.quarantined_time == moment(CAME_US)
    assert (note.reason, note.tag_id, note.HasField("time_us"), note.HasField("text_begin")) == (
        pb.QUARANTINE_REASON_JOURNAL, 0, False, False
    )  # fmt: skip


@pytest.mark.parametrize("page_size", [1, 7, 1_000])
def test_pages_lead_to_every_row_once(stub: Any, acme: psycopg.Connection[Any], page_size: int) -> None:
    quarantine(acme, *({} for _ in range(20)))
    seen: list[int] = []
    token = ""
    while token or not seen:
        page = stub.ListQuarantined(LIST(page_size=page_size, page_token=token), metadata=ACME, timeout=30)
        seen += [row.id for row in page.rows]
        token = page.next_page_token
    assert seen == list(range(20, 0, -1))


def test_rows_are_chosen_by_each_field_of_the_filter(
    stub: Any, acme: psycopg.Connection[Any], world: World
) -> None:
    other = world.tags[-1]
    quarantine(acme, {}, {"tag_id": other}, {"reason": "timestamp"})
    choices: tuple[tuple[dict[str, Any], list[int]], ...] = (
        ({"ids": [1, 3]}, [3, 1]),
        ({"tag_ids": [other]}, [2]),
        ({"well_id": str(world.wells[0])}, [3, 1]),
        ({"reason": pb.QUARANTINE_REASON_TIMESTAMP}, [3]),
        ({"since_time": moment(CAME_US), "until_time": moment(CAME_US + 1)}, [3, 2, 1]),
        ({"until_time": moment(CAME_US)}, []),
        ({"since_time": moment(CAME_US + 1)}, []),
    )
    for fields, ids in choices:
        page = stub.ListQuarantined(LIST(filter=FILTER(**fields)), metadata=ACME, timeout=30)
        assert [row.id for row in page.rows] == ids, fields


@pytest.mark.parametrize(
    ("field", "method", "request_"),
    [
        ("page_size", "ListQuarantined", LIST(page_size=1_001)),
        ("page_size", "ListQuarantined", LIST(page_size=-1)),
        ("page_token", "ListQuarantined", LIST(page_token="no token")),
        ("page_token", "RetryQuarantined", RETRY(page_token="00000000.1.2")),
        ("page_token", "DropQuarantined", DROP(page_token="00000000." + "9" * 30, everything=True)),
        ("ids", "ListQuarantined", LIST(filter=FILTER(ids=[-1]))),
        ("tag_ids", "RetryQuarantined", RETRY(filter=FILTER(tag_ids=[0]))),
        ("well_id", "RetryQuarantined", RETRY(filter=FILTER(well_id="Well 1"))),
        ("reason", "ListQuarantined", LIST(filter=FILTER(reason=77))),  # type: ignore[arg-type]
        ("since_time", "DropQuarantined", DROP(filter=FILTER(since_time=moment(2), until_time=moment(1)))),
        ("until_time", "DropQuarantined", DROP(filter=FILTER(until_time=moment(10**18)))),
        ("filter", "DropQuarantined", DROP()),
        ("everything", "DropQuarantined", DROP(everything=True, filter=FILTER(ids=[1]))),
    ],
)
def test_what_does_not_fit_is_refused_by_the_name_of_its_field_and_changes_nothing(
    stub: Any, acme: psycopg.Connection[Any], field: str, method: str, request_: Any
) -> None:
    quarantine(acme, {})
    code, named, _ = refusal(lambda: getattr(stub, method)(request_, metadata=ACME, timeout=30))
    assert (code, named) == (grpc.StatusCode.INVALID_ARGUMENT, field)
    assert counted(acme, "reading_quarantine") == 1


def test_a_page_token_of_another_filter_or_method_is_refused(
    stub: Any, acme: psycopg.Connection[Any]
) -> None:
    quarantine(acme, {}, {})
    token = stub.ListQuarantined(LIST(page_size=1), metadata=ACME, timeout=30).next_page_token
    chosen = FILTER(tag_ids=[1])
    for call in (
        lambda: stub.ListQuarantined(LIST(page_token=token, filter=chosen), metadata=ACME, timeout=30),
        lambda: stub.DropQuarantined(DROP(page_token=token, everything=True), metadata=ACME, timeout=30),
    ):
        assert refusal(call)[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "page_token")


def test_a_well_that_does_not_exist_is_not_found(stub: Any) -> None:
    chosen = FILTER(well_id=str(uuid4()))
    code, field, _ = refusal(lambda: stub.ListQuarantined(LIST(filter=chosen), metadata=ACME, timeout=30))
    assert (code, field) == (grpc.StatusCode.NOT_FOUND, "well_id")


def test_what_can_be_stored_is_stored_once_and_what_cannot_is_counted_by_its_reason(
    stub: Any, front: RunningFront, acme: psycopg.Connection[Any]
) -> None:
    quarantine(acme, {}, {"ts_us": 0}, {"ts_us": LATER_US + 1, "text": b"caf\xe9", "reason": "text"})
    done = stub.RetryQuarantined(RETRY(), metadata=(*ACME, ("x-request-id", "again-1")), timeout=30)
    assert (done.stored, done.next_page_token) == (1, "")
    assert {kept.reason: kept.rows for kept in done.kept} == {
        pb.QUARANTINE_REASON_TIMESTAMP: 1, pb.QUARANTINE_REASON_TEXT: 1
    }  # fmt: skip
    assert (stored(acme), counted(acme, "reading_quarantine")) == (1, 2)
    assert "again-1" in front.log.read_text()
    done = stub.RetryQuarantined(RETRY(replace_invalid=True), metadata=ACME, timeout=30)
    assert done.stored == 1
    texts = acme.execute("select text_value from readings where text_value like 'caf_'").fetchall()
    assert texts == [("caf\ufffd",)]
    assert stub.RetryQuarantined(RETRY(any_time=True), metadata=ACME, timeout=30).stored == 1
    acme.execute("delete from readings where ts = 'epoch'")
    assert stub.RetryQuarantined(RETRY(), metadata=ACME, timeout=30) == pb.RetryQuarantinedResponse()


def test_a_large_quarantine_takes_several_calls(stub: Any, acme: psycopg.Connection[Any]) -> None:
    acme.execute(
        """
        insert into reading_quarantine (stream, sequence, place, tag_id, ts_us, status, value, reason, detail)
        select gen_random_uuid(), 1, i, 1, %s + i, 0, i, 'rejected', '' from generate_series(1, 12000) i
        """,
        [LATER_US],
    )
    first = stub.RetryQuarantined(RETRY(), metadata=ACME, timeout=60)
    assert first.stored == 10_000
    quarantine(acme, {})  # comes in meanwhile, and is not touched
    second = stub.RetryQuarantined(RETRY(page_token=first.next_page_token), metadata=ACME, timeout=60)
    assert (second.stored, second.next_page_token) == (2_000, "")
    assert (stored(acme), counted(acme, "reading_quarantine")) == (12_000, 1)


def test_what_is_dropped_is_gone_and_the_log_says_who_did_it(
    stub: Any, front: RunningFront, acme: psycopg.Connection[Any]
) -> None:
    quarantine(acme, {}, {"reason": "journal", "tag_id": None})
    chosen = FILTER(reason=pb.QUARANTINE_REASON_JOURNAL)
    named = (*ACME, ("x-request-id", "tidy-7"))
    assert stub.DropQuarantined(DROP(filter=chosen), metadata=named, timeout=30).dropped == 1
    assert counted(acme, "reading_quarantine") == 1
    said = [line for line in front.log.read_text().splitlines() if "tidy-7" in line]
    assert any('"rows":1' in line and '"tenant":"acme"' in line and "127.0.0.1" in line for line in said)
    assert stub.DropQuarantined(DROP(everything=True), metadata=ACME, timeout=30).dropped == 1
    assert counted(acme, "reading_quarantine") == 0


def test_nobody_reaches_the_quarantine_of_another_tenant(stub: Any, acme: psycopg.Connection[Any]) -> None:
    quarantine(acme, {})
    everything = ((stub.ListQuarantined, LIST()), (stub.RetryQuarantined, RETRY()))
    dropping = (stub.DropQuarantined, DROP(everything=True))
    for method, request in (*everything, dropping):
        answer = method(request, metadata=ZENITH, timeout=30)
        assert answer == type(answer)()
        for metadata, code in (
            ((("x-tenant", "closed"),), grpc.StatusCode.PERMISSION_DENIED),
            ((), grpc.StatusCode.UNAUTHENTICATED),
            ((*ACME, *ZENITH), grpc.StatusCode.UNAUTHENTICATED),
        ):
            assert refusal(partial(method, request, metadata=metadata, timeout=30))[0] is code
    assert counted(acme, "reading_quarantine") == 1
