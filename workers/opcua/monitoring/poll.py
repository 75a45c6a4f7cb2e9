"""Reading tags again and again: for those that ask for it, and for servers without subscriptions.

Owns the requests of one connection's polled tags and when they are sent. A value goes into the ring whether or not it
is new: who drains the ring knows what is stored already (the same source timestamp means the same reading).

Invariants:
- A round never begins before the one before it has ended; rounds that fell behind are left out, not made up for.
- While the ring is full the answer in hand waits, and nothing is asked: one message of memory at most. Nothing is asked
  while the journal takes nothing, either.
- A tag that cannot be read (no such node, not readable) stays in the round, which so finds it when it appears. Until
  it was read once in this session, its failures are not stored; afterwards they are readings with a Bad status.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Never

import numpy as np
from asyncua import ua
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaStatusCodeError

from engine import variants
from engine._fastpath import Ring, decode_read, encode_read
from engine.errors import ConnectionRefused
from engine.metrics import Counter
from engine.outcomes import Outcome
from engine.readings import RawBatch
from workers.opcua.monitoring.limits import TOO_MUCH_AT_ONCE
from workers.opcua.monitoring.nodes import Form
from workers.opcua.monitoring.outcome import RANGE_REFUSED, UNREADABLE
from workers.opcua.monitoring.resolve import SESSION_ENDED, pick_from_whole
from workers.opcua.seam import status_name
from workers.opcua.sink import until_accepting

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from engine.metrics import TenantSlots
    from engine.settings import OpcuaSettings
    from workers.opcua.channel import Channel
    from workers.opcua.monitoring.nodes import Places
    from workers.opcua.monitoring.outcome import Monitoring
    from workers.opcua.sink import Sink

_READ = 631  # ReadRequest_Encoding_DefaultBinary
_BOTH_TIMESTAMPS = 2
# A round starts at a random moment of this or of the interval, so that connections do not read in step.
_START_WITHIN_S = 5.0
_INTERVAL_LEAST_S = 0.01
# Without a subscription, a session is touched this often in its timeout.
_TOUCHES = 3
_SERVER_STATE = ua.NodeId(ua.Int32(ObjectIds.Server_ServerStatus_State))


async def probe(channel: Channel, monitoring: Monitoring, places: Places) -> None:
    """Find out which tags can be read, and how; what was read is not kept. Raises ConnectionRefused."""
    waiting = [places]
    while waiting:
        part = waiting.pop()
        if len(part) > monitoring.nodes_per_read:
            waiting.append(part[monitoring.nodes_per_read :])
            part = part[: monitoring.nodes_per_read]
        part, body = encode(monitoring, part, _BOTH_TIMESTAMPS)
        if not len(part):
            continue
        answer = await channel.call(_READ, body, doing="tags not read")
        raw, result = _decode(answer, monitoring, part, _no_text)
        if raw is not None:
            waiting += await _settle(channel, monitoring, part, raw)
        elif result in SESSION_ENDED:
            raise ConnectionRefused(f"tags not read: {status_name(result)}")
        elif len(part) > 1:
            if result in TOO_MUCH_AT_ONCE:
                monitoring.nodes_per_read = max(1, len(part) // 2)
            waiting += [part[: len(part) // 2], part[len(part) // 2 :]]
        else:
            monitoring.refuse(part, result)
        await asyncio.sleep(0)


async def _settle(channel: Channel, monitoring: Monitoring, part: Places, raw: RawBatch) -> list[Places]:
    """Take over what a probe found; return the places that are to be read in another form."""
    addresses = monitoring.addresses
    status = _by_place(raw, len(part))
    monitoring.settle(part, np.where(np.isin(status, UNREADABLE), status, 0))
    form = addresses.form[part]
    literal = part[(form == Form.LITERAL) & (status == StatusCodes.BadNodeIdUnknown)]
    again = [place for place in literal.tolist() if addresses.try_as_element(place)]
    ranges = part[(form == Form.RANGE) & np.isin(status, RANGE_REFUSED)]
    if len(ranges):
        can, cannot = await pick_from_whole(channel, addresses, ranges)
        monitoring.refuse(cannot, StatusCodes.BadIndexRangeNoData)
        again += can
    return [np.array(again, np.int32)] if again else []


def encode(monitoring: Monitoring, places: Places, timestamps: int) -> tuple[Places, bytes]:
    """Return the places that have a NodeId in this session, and the ReadRequest for these; mark the others."""
    node_ids, ranges, missing = monitoring.addresses.wire(places)
    if missing:
        for at, problem in missing.items():
            monitoring.has_problem(int(places[at]), problem)
        return encode(monitoring, np.delete(places, list(missing)), timestamps)
    return places, encode_read(node_ids, ranges, timestamps) if len(places) else b""


def _decode(
    answer: bytes | memoryview, monitoring: Monitoring, places: Places, text_of: Callable[[bytes], str | None]
) -> tuple[RawBatch | None, int]:
    """Return the readings, their slots the numbers in `places`, or None and the result of the service."""
    ring = Ring(len(places))
    elements = monitoring.elements
    chosen = None if elements is None else elements[places]
    numbers = np.arange(len(places), dtype=np.uint32)
    said = decode_read(answer, ring, numbers, time.time_ns() // 1_000, chosen, text_of)
    if said.outcome == Outcome.FAULT:
        return None, said.service_result
    return ring.drain(len(places)), 0


def _by_place(raw: RawBatch, count: int) -> NDArray[np.uint32]:
    status = np.zeros(count, np.uint32)
    status[raw.slot] = raw.status
    return status


def _no_text(_variant: bytes) -> None:
    """Make no text of a value that is not kept."""


class Poller:
    """Reads the polled tags of one connection in one session."""

    def __init__(
        self,
        *,
        channel: Channel,
        monitoring: Monitoring,
        ring: Ring,
        slots: NDArray[np.uint32],
        counters: TenantSlots,
        settings: OpcuaSettings,
        sink: Sink,
        interval_s: float,
        text_of: Callable[[bytes], str | None] = variants.text_of,
        changed: Callable[[], None] | None = None,
    ) -> None:
        """`slots[i]` is the ring slot of tag i; `interval_s` is from the start of a round to the start of the next.

        `changed` is called after a round in which tags appeared or went missing.
        """
        self._channel = channel
        self._monitoring = monitoring
        self._ring = ring
        self._slots = slots
        self._counters = counters
        self._settings = settings
        self._sink = sink
        self._interval_s = max(interval_s, _INTERVAL_LEAST_S)
        self._text_of = text_of
        self._changed = changed
        self._requests: list[tuple[Places, bytes]] = []
        self._revision = -1
        # Made when something is polled: most connections poll nothing.
        self._was_read = np.zeros(0, np.bool_)

    async def run(self) -> Never:
        """Poll until the connection ends. Raises ConnectionRefused or MalformedMessage; never returns."""
        clock = asyncio.get_running_loop().time
        due_s = clock() + random.uniform(0.0, min(self._interval_s, _START_WITHIN_S))
        while True:
            await self._rest(due_s)
            before = self._monitoring.monitored
            await self._round()
            if self._changed is not None and self._monitoring.monitored != before:
                self._changed()
            behind = int((clock() - due_s) / self._interval_s)
            due_s += (behind + 1) * self._interval_s

    async def _rest(self, until_s: float) -> None:
        """Wait; where no subscription does it, show the server that the session lives."""
        clock = asyncio.get_running_loop().time
        touch_s = self._channel.session_timeout_s / _TOUCHES
        while (left_s := until_s - clock()) > 0:
            await asyncio.sleep(min(left_s, touch_s))
            if left_s > touch_s and not self._monitoring.subscriptions:
                with self._channel.translated("no sign of life"):
                    try:
                        await self._channel.session.read_attributes([_SERVER_STATE], AttributeIds.Value)
                    except UaStatusCodeError as exc:
                        if exc.code in SESSION_ENDED:
                            raise

    async def _round(self) -> None:
        """Read every polled tag once."""
        if self._revision != self._monitoring.revision:
            await self._prepare()
        waiting = self._requests[::-1]
        while waiting:
            places, body = waiting.pop()
            await until_accepting(self._sink)
            answer = await self._channel.call(_READ, body, doing="tags not read")
            raw, result = _decode(answer, self._monitoring, places, self._text_of)
            if raw is not None:
                await self._store(places, raw)
                continue
            if result not in TOO_MUCH_AT_ONCE or len(places) == 1:
                raise ConnectionRefused(f"tags not read: {status_name(result)}")
            self._monitoring.nodes_per_read = max(1, len(places) // 2)
            await self._prepare()
            done = np.concatenate([others for others, _ in waiting]) if waiting else np.empty(0, np.int32)
            left = np.union1d(places, done)
            waiting = [(some, body) for some, body in self._requests[::-1] if np.isin(some, left).any()]

    async def _prepare(self) -> None:
        """Encode the requests once for all rounds until other tags are polled."""
        monitoring = self._monitoring
        self._revision = monitoring.revision
        most = max(1, min(monitoring.nodes_per_read, self._ring.capacity_rows // 2))
        requests: list[tuple[Places, bytes]] = []
        for timestamps, places in monitoring.polled_by_timestamps():
            for start in range(0, len(places), most):
                part, body = encode(monitoring, places[start : start + most], timestamps)
                if len(part):
                    requests.append((part, body))
                await asyncio.sleep(0)
        self._requests = requests

    async def _store(self, places: Places, raw: RawBatch) -> None:
        """Put the readings of one answer into the ring, as soon as there is room."""
        status = _by_place(raw, len(places))
        unreadable = np.isin(status, UNREADABLE)
        self._monitoring.settle(places, np.where(unreadable, status, 0))
        if not len(self._was_read):
            self._was_read = np.zeros(len(self._slots), np.bool_)
        self._was_read[places[~unreadable]] = True
        batch = _chosen(raw, self._was_read[places[raw.slot]], self._slots[places])
        if not len(batch):
            return
        while not self._ring.append(batch):
            self._counters.count(Counter.BACKPRESSURE_PAUSES)
            await self._sink.wait_for_space()
        self._sink.stored(len(batch))


def _chosen(raw: RawBatch, keep: NDArray[np.bool_], slots: NDArray[np.uint32]) -> RawBatch:
    """Return the rows that are to be kept, with their slots in the tenant's ring."""
    rows = np.flatnonzero(keep)
    texts = raw.texts
    if len(rows) < len(raw):
        texts = {new: raw.texts[old] for new, old in enumerate(rows.tolist()) if old in raw.texts}
    return RawBatch(
        ts_us=raw.ts_us[rows],
        slot=slots[raw.slot[rows]],
        status=raw.status[rows],
        value=raw.value[rows],
        kind=raw.kind[rows],
        texts=texts,
    )
