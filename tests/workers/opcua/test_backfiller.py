"""What becomes of gaps whose history is slow, refused, endless or nonsense: a channel that answers what a test says."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from engine.continuity import Continuity
from engine.errors import ConnectionRefused
from engine.gaps import Cause, Gaps
from engine.metrics import Counter
from engine.scaling import TagTable
from tests.workers.opcua.publishing_script import fault, header
from tests.workers.opcua.tenant import Tenant, until
from workers.opcua.history import Backfiller
from workers.opcua.monitoring.limits import Limits

BAD_TOO_MANY_OPERATIONS = 0x8010_0000
BAD_HISTORY_OPERATION_UNSUPPORTED = 0x8072_0000
START_US = 1_780_000_000_000_000
EPOCH_1601_TICKS = 116_444_736_000_000_000


class Nodes:
    """Addresses of nodes that are numbers."""

    def wire(self, places: Any) -> tuple[list[bytes], None, dict[int, object]]:
        return [b"\x01\x00" + struct.pack("<H", int(place)) for place in places], None, {}


class Site:
    """A backfiller, and a channel that calls `answer` with the number of nodes of each request."""

    lost = False

    def __init__(
        self, tenant: Tenant, tags: int, answer: Callable[[int], bytes], *, slots: list[int] | None = None
    ) -> None:
        self.tenant = tenant
        self.continuity = Continuity(tenant.ring)
        self.asked: list[int] = []
        self.bodies: list[bytes] = []
        self._answer = answer
        self.backfiller = Backfiller(
            slots=np.arange(tags, dtype=np.uint32) if slots is None else np.array(slots, np.uint32),
            ring=tenant.ring,
            counters=tenant.counters,
            sink=tenant.sink,
            continuity=self.continuity,
        )
        self.backfiller.offer(
            Gaps(
                slot=np.arange(tags, dtype=np.uint32),
                tag_id=np.arange(tags, dtype=np.int32),
                from_us=np.full(tags, START_US, np.int64),
                to_us=np.full(tags, START_US + 1_000_000, np.int64),
                cause=np.full(tags, Cause.OUTAGE, np.uint8),
            )
        )
        monitoring = SimpleNamespace(addresses=Nodes(), elements=None)
        self.task = asyncio.create_task(
            self.backfiller.run(cast(Any, self), cast(Any, monitoring), Limits(), lambda _variant: None)
        )

    async def call(self, _type_id: int, body: bytes, *, doing: str) -> bytes:
        assert doing in {"history not read", "continuation points not released"}
        self.bodies.append(body)
        (nodes,) = struct.unpack_from("<i", body, 5 + 4 + 22 + 5)
        self.asked.append(nodes)
        await asyncio.sleep(0)
        return self._answer(nodes)

    async def settled(self, gaps: int) -> None:
        """Wait until so many gaps are given up, and end."""
        await until(lambda: self.tenant.counted(Counter.GAPS) == gaps)
        assert self.backfiller.pending == 0
        assert not self.task.done()
        self.task.cancel()
        await asyncio.wait([self.task])


def page(nodes: int, status: int, *, point: bytes | None = None, values: tuple[int, ...] = ()) -> bytes:
    """Return a HistoryReadResponse in which each node has the same; `values` are microseconds after START_US."""
    data = struct.pack("<i", len(values)) + b"".join(
        struct.pack("<BBdq", 0x05, 11, 1.0, (START_US + after_us) * 10 + EPOCH_1601_TICKS)
        for after_us in values
    )
    history = b"\x01\x00" + struct.pack("<HBi", 658, 1, len(data)) + data
    continuation = struct.pack("<i", -1) if point is None else struct.pack("<i", len(point)) + point
    result = struct.pack("<I", status) + continuation + history
    return header(667) + struct.pack("<i", nodes) + result * nodes + struct.pack("<i", -1)


async def test_a_history_that_takes_too_long_is_asked_for_less_and_then_not_at_all(tenant: Tenant) -> None:
    def too_long(_nodes: int) -> bytes:
        raise ConnectionRefused("history not read: no answer within 10 s") from TimeoutError()

    site = Site(tenant, 250, too_long)
    await site.settled(250)
    assert site.asked == [100, 50, 25, 12, 6, 3, 1]


async def test_a_server_that_takes_fewer_nodes_gets_fewer(tenant: Tenant) -> None:
    def at_most_ten(nodes: int) -> bytes:
        return fault(BAD_TOO_MANY_OPERATIONS) if nodes > 10 else page(nodes, 0, values=(5, 7))

    site = Site(tenant, 30, at_most_ten)
    await until(lambda: tenant.counted(Counter.BACKFILLED) == 60)
    await until(lambda: site.backfiller.pending == 0)
    await site.settled(0)
    assert max(site.asked[3:]) <= 10
    assert tenant.sink.rows == 60


async def test_nodes_without_history_are_given_up_and_not_asked_again(tenant: Tenant) -> None:
    site = Site(tenant, 3, lambda nodes: page(nodes, BAD_HISTORY_OPERATION_UNSUPPORTED))
    await until(lambda: tenant.counted(Counter.GAPS) == 3)
    again = np.zeros(1, np.int64)
    site.backfiller.offer(
        Gaps(
            again.astype(np.uint32),
            again.astype(np.int32),
            again + START_US,
            again + START_US + 9,
            np.full(1, Cause.OVERFLOW, np.uint8),
        )
    )
    await site.settled(4)
    assert site.asked == [3]


async def test_a_server_that_turns_in_circles_is_left(tenant: Tenant) -> None:
    site = Site(tenant, 2, lambda nodes: page(nodes, 0, point=b"again", values=(5,)))
    await site.settled(2)
    assert len(site.asked) < 12
    assert tenant.counted(Counter.BACKFILLED) == 2


async def test_of_a_gap_that_was_read_in_part_only_the_rest_stays(tenant: Tenant) -> None:
    pages = [
        page(1, 0, point=b"more", values=(5,)),
        page(1, 0, point=b"more", values=(7,)),
        page(1, 0x8000_0000),
    ]
    site = Site(tenant, 1, lambda _nodes: pages.pop(0) if pages else page(0, 0))
    await site.settled(1)
    table = TagTable()
    table.slot(0)
    raw = tenant.sink.drain()
    changes = site.continuity.take(raw.slot, table.scale(raw)).changes
    assert [(after - START_US) for after in changes.recovered.from_us] == [0, 5]
    assert [(after - START_US) for after in changes.recorded.from_us] == [5, 7]
    assert set(changes.recorded.to_us) == {START_US + 1_000_000}


async def test_an_answer_that_cannot_be_read_costs_its_gaps_and_not_the_connection(tenant: Tenant) -> None:
    site = Site(tenant, 2, lambda nodes: page(nodes, 0)[:-9])
    await site.settled(2)
    assert tenant.counted(Counter.MALFORMED_MESSAGES) == 1


async def test_what_lies_at_the_ends_or_outside_is_not_stored(tenant: Tenant) -> None:
    site = Site(tenant, 1, lambda nodes: page(nodes, 0, values=(-5, 0, 1, 999_999, 1_000_000, 2_000_000)))
    await until(lambda: tenant.counted(Counter.BACKFILLED) == 2)
    assert sorted(tenant.sink.drain().ts_us - START_US) == [1, 999_999]
    await site.settled(0)


async def test_the_nodes_that_are_asked_are_those_of_the_slots(tenant: Tenant) -> None:
    site = Site(tenant, 3, lambda nodes: page(nodes, 0), slots=[2, 0, 1])
    await until(lambda: site.asked == [3])
    await site.settled(0)
    nodes = b"".join(b"\x01\x00" + struct.pack("<H", place) for place in (1, 2, 0))
    found = site.bodies[0][5 + 4 + 22 + 9 :]
    # Behind each NodeId: no range, no encoding, no continuation point.
    assert b"".join(found[start : start + 4] for start in range(0, len(found), 4 + 4 + 6 + 4)) == nodes


async def test_a_session_that_ends_leaves_what_is_pending_for_the_next_one(tenant: Tenant) -> None:
    def ended(_nodes: int) -> bytes:
        raise ConnectionRefused("the connection was lost")

    site = Site(tenant, 5, ended)
    await asyncio.wait([site.task])
    assert isinstance(site.task.exception(), ConnectionRefused)
    assert site.backfiller.pending == 5
    assert tenant.counted(Counter.GAPS) == 0
    site.backfiller.close()
    assert tenant.counted(Counter.GAPS) == 5
