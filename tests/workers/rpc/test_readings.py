"""The ReadingService as a client sees it: a real front, a real database."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4

import grpc
import numpy as np
import orjson
import psycopg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import BadRequest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_status import rpc_status
from structlog.testing import capture_logs

from engine.errors import InvalidInput, NotFound
from engine.readings import Batch, Kind
from scada.v1 import readings_pb2 as pb
from scada.v1.readings_pb2_grpc import ReadingServiceStub
from tests.end_to_end.engine_process import until
from tests.workers.rpc.conftest import (
    ACME,
    END_US,
    ROWS,
    START_US,
    STEP_US,
    World,
    assert_same,
    joined,
    moment,
    settings_for,
)
from tests.workers.rpc.front_process import RunningFront
from workers.rpc import readings
from workers.rpc.client import ReadingClient
from workers.rpc.columns import batch_of
from workers.rpc.front import Front


def refusal(call: Callable[[], object]) -> tuple[grpc.StatusCode, str, str]:
    """Return the code, the field that BadRequest names, and the message of a call that must fail."""
    with pytest.raises(grpc.RpcError) as raised:
        call()
    status = rpc_status.from_call(raised.value)
    detail = BadRequest()
    for packed in status.details if status else ():
        packed.Unpack(detail)
    field = detail.field_violations[0].field if detail.field_violations else ""
    return raised.value.code(), field, raised.value.details() or ""


def test_a_stream_returns_every_reading_as_it_was_stored(front: RunningFront, world: World) -> None:
    with ReadingClient(front.address, "acme") as client:
        found = client.range(from_us=START_US, to_us=END_US, tag_ids=world.tags)
        batches = list(found)
    assert_same(joined(batches), world.stored)
    assert max(len(batch) for batch in batches) <= 10_000
    assert sorted(found.tags) == sorted(world.tags)
    assert {tag.unit for tag in found.tags.values()} == {"PSI", "BBL/D", "MCF/D"}


def test_a_well_selects_its_tags_only(front: RunningFront, world: World) -> None:
    with ReadingClient(front.address, "acme") as client:
        found = client.range(from_us=START_US, to_us=END_US, well_id=world.wells[0])
        rows = joined(list(found))
    assert len(rows) == ROWS // 2
    assert set(rows.tag_id.tolist()) == set(found.tags)
    assert {tag.well_id for tag in found.tags.values()} == {world.wells[0]}


def test_the_start_of_a_range_belongs_to_it_and_the_end_does_not(front: RunningFront, world: World) -> None:
    with ReadingClient(front.address, "acme") as client:
        first, second = START_US + 5 * STEP_US, START_US + 7 * STEP_US
        rows = joined(list(client.range(from_us=first, to_us=second, tag_ids=world.tags)))
    assert sorted(set(rows.ts_us.tolist())) == [first, first + STEP_US]


def test_a_range_without_readings_still_tells_the_tags(front: RunningFront, world: World) -> None:
    with ReadingClient(front.address, "acme") as client:
        found = client.range(from_us=1, to_us=2, well_id=world.wells[1])
        assert len(found.tags) == 5
        assert not list(found)


@pytest.mark.parametrize("page_size", [7_000, 0])
def test_pages_return_each_reading_once(front: RunningFront, world: World, page_size: int) -> None:
    request = pb.ListReadingsRequest(
        tag_ids=world.tags, start_time=moment(START_US), end_time=moment(END_US), page_size=page_size
    )
    pages: list[Batch] = []
    while True:
        answer = front.stub.ListReadings(request, metadata=ACME, timeout=30)
        pages.append(batch_of(answer.columns))
        assert {tag.tag_id for tag in answer.tags} == set(world.tags)
        request.page_token = answer.next_page_token
        if not answer.next_page_token:
            break
    assert_same(joined(pages), world.stored)
    most = page_size or 1_000
    assert [len(page) for page in pages] == [most] * (ROWS // most) + ([ROWS % most] if ROWS % most else [])


def test_a_page_token_for_another_request_is_refused(front: RunningFront, world: World) -> None:
    request = pb.ListReadingsRequest(
        tag_ids=world.tags, start_time=moment(START_US), end_time=moment(END_US), page_size=10
    )
    token = front.stub.ListReadings(request, metadata=ACME, timeout=30).next_page_token
    request.page_token, request.end_time.seconds = token, request.end_time.seconds + 1
    code, field, _ = refusal(lambda: front.stub.ListReadings(request, metadata=ACME, timeout=30))
    assert (code, field) == (grpc.StatusCode.INVALID_ARGUMENT, "page_token")


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("end_time", {"end_time": moment(START_US - 1)}),
        ("end_time", {"end_time": moment(START_US)}),
        ("end_time", {"end_time": moment(START_US + 367 * 86_400_000_000)}),
        ("end_time", {"end_time": None}),
        ("start_time", {"start_time": None}),
        ("start_time", {"start_time": Timestamp(seconds=-(2**62))}),
        ("end_time", {"end_time": Timestamp(seconds=2**62)}),
        ("end_time", {"end_time": Timestamp(seconds=START_US // 1_000_000 + 9, nanos=-1)}),
        ("well_id", {"tag_ids": []}),
        ("well_id", {"tag_ids": [], "well_id": "the big one"}),
        ("tag_ids", {"well_id": str(uuid4())}),
        ("tag_ids", {"tag_ids": [0]}),
        ("tag_ids", {"tag_ids": range(1, 10_002)}),
        ("page_size", {"page_size": -1}),
        ("page_size", {"page_size": 10_001}),
        ("page_token", {"page_token": "never given"}),
        ("page_token", {"page_token": "é" * 40}),
    ],
)
def test_what_does_not_fit_is_refused_by_the_name_of_its_field(
    front: RunningFront, world: World, field: str, changes: dict[str, Any]
) -> None:
    wanted: dict[str, Any] = {
        "tag_ids": world.tags,
        "start_time": moment(START_US),
        "end_time": moment(END_US),
    } | changes
    code, named, said = refusal(
        lambda: front.stub.ListReadings(pb.ListReadingsRequest(**wanted), metadata=ACME, timeout=30)
    )
    assert (code, named) == (grpc.StatusCode.INVALID_ARGUMENT, field)
    assert said.startswith(f"{field}: ")


def test_an_inverted_or_enormous_range_is_refused_by_the_stream_too(
    front: RunningFront, world: World
) -> None:
    with ReadingClient(front.address, "acme") as client:
        for end_us in (START_US - 1, START_US + 10_000 * 86_400_000_000):
            with pytest.raises(InvalidInput, match="start_time") as raised:
                client.range(from_us=START_US, to_us=end_us, tag_ids=world.tags)
            assert raised.value.field == "end_time"


def test_an_unknown_well_or_tag_is_not_found(front: RunningFront) -> None:
    with ReadingClient(front.address, "acme") as client:
        for selection, field in (({"well_id": uuid4()}, "well_id"), ({"tag_ids": [999_999]}, "tag_ids")):
            with pytest.raises(NotFound) as raised:
                client.range(from_us=START_US, to_us=END_US, **selection)
            assert raised.value.field == field


def test_the_latest_reading_of_each_tag_is_returned(front: RunningFront, world: World) -> None:
    with ReadingClient(front.address, "acme") as client:
        found = client.latest()
        assert client.latest(well_id=world.wells[1]) == [
            reading for reading in found if reading.tag.well_id == world.wells[1]
        ]
        assert [reading.tag.tag_id for reading in client.latest(tag_ids=world.tags[:1])] == [world.tags[0]]
    stored = world.stored
    assert [reading.tag.tag_id for reading in found] == sorted(world.tags)
    for reading in found:
        row = int(np.flatnonzero(stored.tag_id == reading.tag.tag_id)[-1])
        assert (reading.ts_us, reading.status) == (stored.ts_us[row], stored.status[row])
        assert (reading.value is not None) == bool(stored.kind[row] & Kind.NUMBER)
        assert reading.text_value == stored.texts.get(row)


def test_the_latest_reading_tells_its_quality(front: RunningFront, world: World) -> None:
    answer = front.stub.GetLatestReadings(pb.GetLatestReadingsRequest(), metadata=ACME, timeout=30)
    by_severity = [pb.QUALITY_GOOD, pb.QUALITY_UNCERTAIN, pb.QUALITY_BAD, pb.QUALITY_BAD]
    assert answer.readings
    assert all(reading.quality == by_severity[reading.status >> 30] for reading in answer.readings)


def test_without_a_header_a_caller_is_asked_which_tenant(front: RunningFront) -> None:
    code, _, said = refusal(lambda: front.stub.GetLatestReadings(pb.GetLatestReadingsRequest(), timeout=30))
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert "x-tenant" in said
    assert "acme" not in said


def test_a_disabled_tenant_is_refused_like_one_that_never_was(front: RunningFront) -> None:
    answers = {
        refusal(
            lambda slug=slug: front.stub.GetLatestReadings(  # type: ignore[misc]
                pb.GetLatestReadingsRequest(), metadata=(("x-tenant", slug),), timeout=30
            )
        )
        for slug in ("closed", "nobody", "")
    }
    assert {code for code, _, _ in answers} == {grpc.StatusCode.PERMISSION_DENIED}
    assert len(answers) == 1


def test_who_asks_for_a_tenant_that_is_not_theirs_is_written_down(front: RunningFront) -> None:
    """The answer says nothing; the log says when, from where, for whom and under which request id."""
    asked = (("x-tenant", "closed"), ("x-request-id", "who-was-it"))
    code, _, said = refusal(
        lambda: front.stub.GetLatestReadings(pb.GetLatestReadingsRequest(), metadata=asked, timeout=30)
    )
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "closed" not in said
    (line,) = (orjson.loads(line) for line in front.log.read_text().splitlines() if "who-was-it" in line)
    assert (line["level"], line["code"], line["asked"]) == ("warning", "PERMISSION_DENIED", "tenant closed")
    assert "127.0.0.1" in line["peer"]
    assert line["timestamp"]


def test_a_tenant_does_not_see_the_wells_of_another(front: RunningFront, world: World) -> None:
    with ReadingClient(front.address, "zenith") as client:
        with pytest.raises(NotFound, match="there is no well"):
            client.range(from_us=START_US, to_us=END_US, well_id=world.wells[0])
        assert client.latest() == []


def test_the_request_id_comes_back_and_a_new_one_is_made_where_there_is_none(front: RunningFront) -> None:
    request = pb.GetLatestReadingsRequest()
    _, call = front.stub.GetLatestReadings.with_call(
        request, metadata=(*ACME, ("x-request-id", "abc-1")), timeout=30
    )
    assert dict(call.trailing_metadata())["x-request-id"] == "abc-1"
    with pytest.raises(grpc.RpcError) as raised:
        front.stub.GetLatestReadings(request, timeout=30)
    returned: Any = raised.value.trailing_metadata()
    assert len(dict(returned)["x-request-id"]) == 32


# Every column that a query names is there, and what it asks of them makes no sense.
_SWAP = """
    alter table tag_mappings rename column id to moved;
    alter table tag_mappings rename column tag_id to id;
    alter table tag_mappings rename column moved to tag_id;
"""


def test_an_unexpected_failure_shows_no_internals(front: RunningFront, world: World) -> None:
    with psycopg.connect(world.databases.tenant_dsn, autocommit=True) as connection:
        connection.execute(_SWAP)
        try:
            code, _, said = refusal(
                lambda: front.stub.GetLatestReadings(
                    pb.GetLatestReadingsRequest(), metadata=(*ACME, ("x-request-id", "find-me")), timeout=30
                )
            )
        finally:
            connection.execute(_SWAP)
    assert code is grpc.StatusCode.INTERNAL
    assert "find-me" in said
    assert "operator" not in said
    assert "operator does not exist" in front.log.read_text()


def test_a_cancelled_call_stops_its_query(front: RunningFront, world: World) -> None:
    dsn = world.databases.tenant_dsn
    with psycopg.connect(dsn) as holder, psycopg.connect(dsn, autocommit=True) as observer:

        def waiting() -> int:
            found = observer.execute(
                "select count(*) from pg_stat_activity where application_name = 'scada-engine front'"
                " and datname = current_database() and state = 'active'"
            ).fetchone()
            return int(found[0]) if found else 0

        holder.execute("lock table readings in access exclusive mode")
        call = front.stub.GetLatestReadings.future(pb.GetLatestReadingsRequest(), metadata=ACME, timeout=30)
        until("the query waits for the lock", lambda: waiting() == 1)
        call.cancel()
        until("the query has ended", lambda: waiting() == 0)


def test_a_passed_deadline_stops_the_query(front: RunningFront, world: World) -> None:
    with psycopg.connect(world.databases.tenant_dsn) as holder:
        holder.execute("lock table readings in access exclusive mode")
        code, _, _ = refusal(
            lambda: front.stub.GetLatestReadings(pb.GetLatestReadingsRequest(), metadata=ACME, timeout=0.5)
        )
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert front.stub.GetLatestReadings(pb.GetLatestReadingsRequest(), metadata=ACME, timeout=30).readings


async def test_a_caller_that_takes_nothing_is_sent_away(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readings, "SILENCE_MOST_S", 0.3)
    monkeypatch.setattr(readings, "BATCH_ROWS", 1_000)
    front = Front(settings_for(world.databases.master_dsn))
    await front.start()
    keeping = asyncio.create_task(front.keep_ready())
    # Without the probe, the window of a stream stays at 64 KiB, a tenth of what there is to send.
    options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{front.port}", options=options) as channel:
        health = HealthStub(channel).Watch(HealthCheckRequest())
        while (await health.read()).status != HealthCheckResponse.SERVING:
            pass
        stub = ReadingServiceStub(channel)  # type: ignore[no-untyped-call]
        stream = stub.StreamReadings(
            pb.StreamReadingsRequest(
                tag_ids=world.tags, start_time=moment(START_US), end_time=moment(END_US)
            ),
            metadata=ACME,
            timeout=30,
        )
        await stream.read()
        with capture_logs() as logs:
            async with asyncio.timeout(20):
                while not any(entry.get("code") == "RESOURCE_EXHAUSTED" for entry in logs):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        while not stream.done():
            with suppress(grpc.aio.AioRpcError):
                await stream.read()
        assert await stream.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await front.stop(5)
    # The library stops a server once more when it is freed, and needs this loop for that.
    del front, keeping
    gc.collect()
    await asyncio.sleep(0)
