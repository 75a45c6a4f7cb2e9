"""The GapService as a client sees it: a real front, a real database."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any
from uuid import uuid4

import grpc
import psycopg
import pytest

from engine.gaps import Cause
from scada.v1 import gaps_pb2 as pb
from scada.v1.gaps_pb2_grpc import GapServiceStub
from tests.workers.rpc.conftest import ACME, World, moment
from tests.workers.rpc.front_process import RunningFront
from tests.workers.rpc.test_readings import refusal

BEGIN_US = 1_777_636_800_000_000  # 2026-05-01 12:00Z
SECOND_US = 1_000_000
END_US = BEGIN_US + 86_400 * SECOND_US
ZENITH = (("x-tenant", "zenith"),)


@pytest.fixture
def stub(front: RunningFront) -> Any:
    return GapServiceStub(front.channel)  # type: ignore[no-untyped-call]


@pytest.fixture(autouse=True)
def gaps(world: World) -> Iterator[None]:
    """Each tag has a gap of each cause, a minute after the other, and of a second and a microsecond each."""
    with psycopg.connect(world.databases.tenant_dsn, autocommit=True) as connection:
        connection.execute(
            """
            insert into reading_gaps (tag_id, "from", "to", cause)
            select tag_id, t, t + interval '1.000001 s', cause
            from unnest(%s::int[]) tag_id
            cross join unnest(%s::text[]) with ordinality as given (cause, place)
            cross join lateral (select timestamptz '2026-05-01 12:00Z' + place * interval '1 min' as t) at
            """,
            [list(world.tags), [cause.label for cause in Cause]],
        )
        yield
        connection.execute("truncate reading_gaps")


def asked(**fields: Any) -> pb.ListGapsRequest:
    return pb.ListGapsRequest(**({"start_time": moment(BEGIN_US), "end_time": moment(END_US)} | fields))


def test_a_gap_tells_whose_it_is_from_when_to_when_and_why(stub: Any, world: World) -> None:
    found = stub.ListGaps(asked(tag_ids=[world.tags[0]]), metadata=ACME, timeout=30)
    assert [gap.cause for gap in found.gaps] == [
        pb.GAP_CAUSE_OUTAGE, pb.GAP_CAUSE_RESTART, pb.GAP_CAUSE_MISSING_MESSAGE, pb.GAP_CAUSE_OVERFLOW,
        pb.GAP_CAUSE_JOURNAL,
    ]  # fmt: skip
    first = found.gaps[0]
    assert (first.tag.tag_id, first.tag.well_id) == (world.tags[0], str(world.wells[0]))
    assert first.tag.tag_name
    assert first.tag.well_name
    assert first.start_time == moment(BEGIN_US + 60 * SECOND_US)
    assert first.end_time == moment(BEGIN_US + 61 * SECOND_US + 1)
    assert first.recorded_time.seconds > 0
    assert found.next_page_token == ""


@pytest.mark.parametrize("page_size", [1, 7, 10_000])
def test_pages_lead_to_every_gap_once_and_in_order(stub: Any, world: World, page_size: int) -> None:
    seen: list[tuple[int, int]] = []
    token = ""
    while token or not seen:
        page = stub.ListGaps(asked(page_size=page_size, page_token=token), metadata=ACME, timeout=30)
        assert len(page.gaps) <= page_size
        seen += [(gap.start_time.seconds, gap.tag.tag_id) for gap in page.gaps]
        token = page.next_page_token
    assert len(set(seen)) == len(seen) == len(world.tags) * len(Cause)
    assert seen == sorted(seen)


def test_gaps_are_chosen_by_well_and_by_time(stub: Any, world: World) -> None:
    of_well = stub.ListGaps(asked(well_id=str(world.wells[1])), metadata=ACME, timeout=30).gaps
    assert {gap.tag.well_id for gap in of_well} == {str(world.wells[1])}
    late = asked(start_time=moment(BEGIN_US + 300 * SECOND_US))
    assert {gap.cause for gap in stub.ListGaps(late, metadata=ACME, timeout=30).gaps} == {
        pb.GAP_CAUSE_JOURNAL
    }
    # One that ends where the range begins does not belong to it.
    after = asked(start_time=moment(BEGIN_US + 301 * SECOND_US + 1))
    assert not stub.ListGaps(after, metadata=ACME, timeout=30).gaps


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("start_time", {"start_time": None}),
        ("end_time", {"end_time": moment(BEGIN_US)}),
        ("end_time", {"end_time": moment(BEGIN_US + 400 * 86_400 * SECOND_US)}),
        ("page_size", {"page_size": 10_001}),
        ("page_token", {"page_token": "nonsense"}),
        ("page_token", {"page_token": "00000000.1.2.3.4"}),
        ("well_id", {"well_id": "Well 1"}),
        ("tag_ids", {"tag_ids": [0]}),
        ("tag_ids", {"tag_ids": [1], "well_id": "00000000-0000-0000-0000-000000000001"}),
    ],
)
def test_what_does_not_fit_is_refused_by_the_name_of_its_field(
    stub: Any, field: str, fields: dict[str, Any]
) -> None:
    code, named, _ = refusal(lambda: stub.ListGaps(asked(**fields), metadata=ACME, timeout=30))
    assert (code, named) == (grpc.StatusCode.INVALID_ARGUMENT, field)


def test_a_page_token_that_was_made_up_is_refused_whatever_it_says(stub: Any) -> None:
    token = stub.ListGaps(asked(page_size=1), metadata=ACME, timeout=30).next_page_token
    checksum, start, tag_id, end, _ = token.split(".")
    for place in (
        (start, 0, end, 1),
        (start, tag_id, end, 99),
        (-(2**63), tag_id, end, 1),
        (start, tag_id, start, 1),
    ):
        made_up = asked(page_size=1, page_token=".".join((checksum, *map(str, place))))
        try:
            stub.ListGaps(made_up, metadata=ACME, timeout=30)
        except grpc.RpcError as exc:
            assert exc.code() is grpc.StatusCode.INVALID_ARGUMENT  # noqa: PT017


def test_an_unknown_well_or_tag_is_not_found(stub: Any) -> None:
    for field, fields in (("well_id", {"well_id": str(uuid4())}), ("tag_ids", {"tag_ids": [9_999]})):
        code, named, _ = refusal(partial(stub.ListGaps, asked(**fields), metadata=ACME, timeout=30))
        assert (code, named) == (grpc.StatusCode.NOT_FOUND, field)


def test_a_tenant_sees_its_own_gaps_only(stub: Any) -> None:
    assert not stub.ListGaps(asked(), metadata=ZENITH, timeout=30).gaps
    code, _, _ = refusal(lambda: stub.ListGaps(asked(), metadata=(("x-tenant", "closed"),), timeout=30))
    assert code is grpc.StatusCode.PERMISSION_DENIED
