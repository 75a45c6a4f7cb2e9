"""Filling gaps from a server's history (OPC 10000-11): the values between the last one that is stored and the next.

Owns the gaps of one connection that may still be filled, over all of its sessions, and the HistoryRead requests. A gap
is recorded whether or not it can be filled (engine/continuity.py), so that nothing is forgotten when this process dies;
when the server has told all that it knows of the interval, the gap is taken out again behind the values that filled it.
Otherwise it stays. Behind the values of each page the gap becomes what is left of it, so that the table says what is
missing whenever this process dies. A history that answers "nothing" says that nothing has changed.

    offer()    the pipeline found gaps            -> pending
    run()      HistoryRead, page after page       -> the ring; recovered() or given up
    close()    the connection is stopped          -> what is pending is given up

Invariants:
- Live data goes first: nothing is read while the ring is more than half full or the journal takes nothing, and no more
  than half of the time.
- Rows go into the ring once, also when a connection is lost between two pages: each gap remembers how far it came.
- A history that is slow is asked for less at once, and in the end not at all; the connection stands.
- What is pending is bounded; what does not fit is given up. A node that has no history is asked once in a connection.
"""

from __future__ import annotations

import asyncio
import struct
import time
from typing import TYPE_CHECKING, Never

import numpy as np
import structlog
from asyncua.ua.status_codes import StatusCodes

from engine._fastpath import decode_history
from engine.errors import ConnectionRefused, MalformedMessage
from engine.gaps import Gaps
from engine.metrics import Counter
from engine.outcomes import Outcome
from workers.opcua.monitoring.limits import TOO_MUCH_AT_ONCE, smaller
from workers.opcua.monitoring.resolve import SESSION_ENDED
from workers.opcua.seam import status_name
from workers.opcua.sink import until_accepting

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from engine._fastpath import HistoryAnswer, Ring
    from engine.continuity import Continuity
    from engine.metrics import TenantSlots
    from workers.opcua.channel import Channel
    from workers.opcua.monitoring.limits import Limits
    from workers.opcua.monitoring.nodes import Places
    from workers.opcua.monitoring.outcome import Monitoring
    from workers.opcua.sink import Sink

log = structlog.get_logger(__name__)

_HISTORY_READ = 664  # HistoryReadRequest_Encoding_DefaultBinary
_RAW_DETAILS = b"\x01\x00\x89\x02\x01"  # ExtensionObject with a body: ReadRawModifiedDetails, i=649
# IsReadModified, StartTime, EndTime, NumValuesPerNode, ReturnBounds (Part 11, 6.5.3.2).
_DETAILS = struct.Struct("<?qqI?")
# TimestampsToReturn, ReleaseContinuationPoints, count of NodesToRead.
_REQUEST = struct.Struct("<I?i")
_LENGTH = struct.Struct("<i")
_DEFAULT_ENCODING = b"\0\0\xff\xff\xff\xff"  # QualifiedName without a name
_NO_BYTES = b"\xff\xff\xff\xff"
_BOTH_TIMESTAMPS = 2
_EPOCH_1601_TICKS = 116_444_736_000_000_000

_NODES_MOST = 100
# Of one answer, all nodes together; also no more than a quarter of the ring.
_VALUES_MOST = 20_000
_VALUES_OF_NODE_MOST = 1_000
# 37 bytes each. A connection of 100 000 tags that is lost five times while a history is read still fits.
_PENDING_MOST = 500_000
# A gap is read together with others whose interval is not much longer than its own.
_STRETCH = 2
_STRETCH_US = 60_000_000
# A page without a value or an end, so many times in a row, is a server that turns in circles.
_EMPTY_PAGES_MOST = 3
_PAUSE_MOST_S = 1.0

_NO_HISTORY = frozenset({
    StatusCodes.BadHistoryOperationUnsupported,
    StatusCodes.BadHistoryOperationInvalid,
    StatusCodes.BadUserAccessDenied,
    StatusCodes.BadNotReadable,
    StatusCodes.BadNotSupported,
    StatusCodes.BadNotImplemented,
    StatusCodes.BadServiceUnsupported,
    StatusCodes.BadAttributeIdInvalid,
})  # fmt: skip


class Backfiller:
    """Fills the gaps of one connection."""

    def __init__(
        self,
        *,
        slots: NDArray[np.uint32],
        ring: Ring,
        counters: TenantSlots,
        sink: Sink,
        continuity: Continuity,
    ) -> None:
        """`slots[i]` is the ring slot of place i; no slot is there twice."""
        self._slots = slots
        # None: they are in order, as those of most connections are; 8 bytes a tag that are not kept.
        self._order = None if (slots[1:] > slots[:-1]).all() else np.argsort(slots).astype(np.int32)
        self._ring = ring
        self._counters = counters
        self._sink = sink
        self._continuity = continuity
        # Gaps, and how far each has been read.
        self._pending: list[tuple[Gaps, NDArray[np.int64]]] = []
        self._offered = asyncio.Event()
        self._without = np.zeros(len(slots), np.bool_)
        self._nodes_most = _NODES_MOST

    def offer(self, gaps: Gaps) -> None:
        """Take gaps that were just recorded; what cannot be filled is given up at once."""
        hopeless = self._without[self._places(gaps)]
        hopeless[max(0, _PENDING_MOST - self.pending) :] = True
        self._give_up(gaps.where(hopeless))
        hoped = gaps.where(~hopeless)
        if len(hoped):
            self._pending.append((hoped, hoped.from_us))
            self._offered.set()

    @property
    def pending(self) -> int:
        """Gaps that may still be filled."""
        return sum(len(gaps) for gaps, _ in self._pending)

    def close(self) -> None:
        """Give up what is pending."""
        for gaps, _ in self._pending:
            self._give_up(gaps)
        self._pending.clear()

    async def run(
        self,
        channel: Channel,
        monitoring: Monitoring,
        limits: Limits,
        text_of: Callable[[bytes], str | None],
    ) -> Never:
        """Read history in one session until it ends. Raises ConnectionRefused; what is pending stays pending."""
        self._nodes_most = smaller(self._nodes_most, limits.nodes_per_history_read)
        while True:
            if self._without.all():
                self.close()
            if not self._pending:
                self._offered.clear()
                await self._offered.wait()
            reading = _Reading(*self._next(), monitoring, text_of)
            try:
                await self._read(channel, reading)
            finally:
                if len(reading.left):
                    self._pending.append((reading.gaps.where(reading.left), reading.after_us[reading.left]))

    def _places(self, gaps: Gaps) -> Places:
        found = np.searchsorted(self._slots, gaps.slot, sorter=self._order)
        return (found if self._order is None else self._order[found]).astype(np.int32)

    def _next(self) -> tuple[Gaps, NDArray[np.int64], Places]:
        """Take out the gaps to read together: the oldest ones, of about the same time."""
        gaps = Gaps.joined([gaps for gaps, _ in self._pending])
        after_us = np.concatenate([after_us for _, after_us in self._pending])
        order = np.lexsort((gaps.to_us, after_us))
        first = order[0]
        span_us = int(gaps.to_us[first] - after_us[first])
        end_us = int(after_us[first]) + _STRETCH * span_us + _STRETCH_US
        chosen = order[: self._nodes_most]
        chosen = chosen[(gaps.to_us[chosen] <= end_us) | (chosen == first)]
        # A node is there once in a request.
        _, once = np.unique(gaps.slot[chosen], return_index=True)
        chosen = chosen[np.sort(once)]
        rest = np.ones(len(gaps), np.bool_)
        rest[chosen] = False
        self._pending = [(gaps.where(rest), after_us[rest])] if rest.any() else []
        taken = gaps.where(chosen)
        return taken, after_us[chosen], self._places(taken)

    async def _read(self, channel: Channel, reading: _Reading) -> None:
        """Read one batch of gaps to its end. Raises ConnectionRefused when the session ends."""
        self._finish(reading, reading.unnamed)
        while len(reading.left):
            await self._let_live_data_pass()
            started_s = time.monotonic()
            answer = await self._ask(channel, reading)
            if answer is None:
                return
            try:
                said = await self._decode(answer, reading)
            except MalformedMessage as exc:
                self._counters.count(Counter.MALFORMED_MESSAGES)
                log.warning("a history cannot be read", error=str(exc))
                self._finish(reading, reading.left)
                return
            if said.outcome == Outcome.FAULT:
                if not self._on_fault(reading, said.service_result):
                    return
            else:
                self._on_results(reading, said)
            await asyncio.sleep(min(time.monotonic() - started_s, _PAUSE_MOST_S))
        if body := reading.release():
            await channel.call(_HISTORY_READ, body, doing="continuation points not released")

    async def _ask(self, channel: Channel, reading: _Reading) -> bytes | memoryview | None:
        """Send the next request; None when the server takes too long over it: live data must not suffer for that."""
        try:
            return await channel.call(
                _HISTORY_READ, reading.request(self._values_of_node), doing="history not read"
            )
        except ConnectionRefused as exc:
            if channel.lost or not isinstance(exc.__cause__, TimeoutError):
                raise
            nodes = len(reading.left)
            log.warning("a history takes too long", nodes=nodes, error=str(exc))
            self._nodes_most = max(1, nodes // 2)
            if nodes == 1:
                self._without[:] = True
                self._finish(reading, reading.left)
            return None

    @property
    def _budget(self) -> int:
        return min(_VALUES_MOST, max(1, self._ring.capacity_rows // 4))

    def _values_of_node(self, nodes: int) -> int:
        return max(1, min(_VALUES_OF_NODE_MOST, self._budget // nodes))

    async def _let_live_data_pass(self) -> None:
        await until_accepting(self._sink)
        while len(self._ring) > self._ring.capacity_rows // 2:
            await self._sink.wait_for_space()

    async def _decode(self, answer: bytes | memoryview, reading: _Reading) -> HistoryAnswer:
        """Put the values of an answer into the ring, as soon as they fit."""
        left = reading.left
        elements = reading.monitoring.elements
        places = reading.places[left]
        while True:
            first = self._continuity.row
            said = decode_history(
                answer,
                self._ring,
                self._slots[places],
                reading.after_us[left],
                reading.gaps.to_us[left],
                time.time_ns() // 1_000,
                None if elements is None else elements[places],
                reading.text_of,
            )
            if said.outcome != Outcome.RING_FULL:
                break
            await self._sink.wait_for_space()
        if said.rows:
            self._continuity.late(first, self._continuity.row)
            self._sink.stored(said.rows)
            self._counters.count(Counter.BACKFILLED, said.rows)
        return said

    def _on_fault(self, reading: _Reading, result: int) -> bool:
        """Decide what becomes of a batch that was refused as a whole; False when it is to be read in other parts."""
        if result in SESSION_ENDED:
            raise ConnectionRefused(f"history not read: {status_name(result)}")
        if result in TOO_MUCH_AT_ONCE and len(reading.left) > 1:
            self._nodes_most = max(1, len(reading.left) // 2)
            return False
        log.info("the server has no history for us", status=status_name(result))
        if result in _NO_HISTORY:
            self._without[:] = True
        self._finish(reading, reading.left)
        return True

    def _on_results(self, reading: _Reading, said: HistoryAnswer) -> None:
        filled: list[int] = []
        failed: list[int] = []
        for at, result in zip(reading.left.tolist(), said.results, strict=True):
            if result.status >= StatusCodes.Bad:
                if result.status in _NO_HISTORY:
                    self._without[reading.places[at]] = True
                log.debug("a gap is not filled", status=status_name(result.status))
                failed.append(at)
                continue
            reading.went_on(at, result.seen, result.newest_us, result.continuation_point)
            if result.continuation_point is None or result.newest_us >= reading.gaps.to_us[at]:
                filled.append(at)
            elif reading.empty_pages[at] > _EMPTY_PAGES_MOST:
                failed.append(at)
        done = np.array(filled, np.intp)
        self._continuity.recovered(reading.gaps.where(done))
        reading.leave(done)
        self._continuity.recovered(*reading.shrink())
        self._finish(reading, np.array(failed, np.intp))

    def _finish(self, reading: _Reading, which: NDArray[np.intp]) -> None:
        """Give up some of the gaps that are being read."""
        self._give_up(reading.gaps.where(which))
        reading.leave(which)

    def _give_up(self, gaps: Gaps) -> None:
        self._counters.count(Counter.GAPS, len(gaps))


class _Reading:
    """Gaps that are read together, and how far each has come."""

    def __init__(
        self,
        gaps: Gaps,
        after_us: NDArray[np.int64],
        places: Places,
        monitoring: Monitoring,
        text_of: Callable[[bytes], str | None],
    ) -> None:
        self.gaps = gaps
        self.after_us = after_us.copy()
        self.places = places
        self.monitoring = monitoring
        self.text_of = text_of
        self.left = np.arange(len(gaps))
        self.empty_pages = np.zeros(len(gaps), np.uint8)
        self._continuations: list[bytes | None] = [None] * len(gaps)
        # Within one reading the interval that is asked for stays the same: continuation points belong to it.
        self._from_us, self._to_us = int(after_us.min()), int(gaps.to_us.max())
        self._names, self._ranges, missing = self._wire()
        self.unnamed = np.array(sorted(missing), np.intp)

    def _wire(self) -> tuple[dict[int, bytes], dict[int, str], set[int]]:
        node_ids, ranges, missing = self.monitoring.addresses.wire(self.places)
        named = [at for at in range(len(self.places)) if at not in missing]
        names = dict(zip(named, node_ids, strict=True))
        return names, dict(zip(named, ranges, strict=True)) if ranges is not None else {}, set(missing)

    def request(self, values_of_node: Callable[[int], int]) -> bytes:
        """Return the body of the HistoryReadRequest for what is left."""
        return self._body(self.left, values_of_node(len(self.gaps)), release=False)

    def release(self) -> bytes | None:
        """Return the body that gives back the continuation points nobody needs; None when there are none."""
        points = [at for at, point in enumerate(self._continuations) if point is not None]
        return self._body(np.array(points, np.intp), 1, release=True) if points else None

    def _body(self, which: NDArray[np.intp], values: int, *, release: bool) -> bytes:
        details = _DETAILS.pack(False, _ticks(self._from_us), _ticks(self._to_us), values, False)
        parts = [
            _RAW_DETAILS,
            _LENGTH.pack(len(details)),
            details,
            _REQUEST.pack(_BOTH_TIMESTAMPS, release, len(which)),
        ]
        for at in which.tolist():
            index_range = self._ranges.get(at, "").encode()
            parts += (
                self._names[at],
                _bytes(index_range or None),
                _DEFAULT_ENCODING,
                _bytes(self._continuations[at]),
            )
        return b"".join(parts)

    def went_on(self, at: int, seen: int, newest_us: int, continuation_point: bytes | None) -> None:
        """Take note of a page."""
        self._continuations[at] = continuation_point
        if seen and newest_us > self.after_us[at]:
            self.after_us[at] = newest_us
            self.empty_pages[at] = 0
        else:
            self.empty_pages[at] += 1

    def shrink(self) -> tuple[Gaps, Gaps]:
        """Let the gaps begin where they have been read to; return those that do now, before and after."""
        which = self.left[self.after_us[self.left] > self.gaps.from_us[self.left]]
        before = self.gaps.where(which)
        self.gaps.from_us[which] = self.after_us[which]
        return before, self.gaps.where(which)

    def leave(self, which: NDArray[np.intp]) -> None:
        """Do not read these any more."""
        self.left = np.setdiff1d(self.left, which)


def _bytes(value: bytes | None) -> bytes:
    return _NO_BYTES if value is None else _LENGTH.pack(len(value)) + value


def _ticks(time_us: int) -> int:
    """Return a DateTime: 100 ns since 1601; what lies outside of it is cut off (Part 6, 5.2.2.5)."""
    return min(max(time_us * 10 + _EPOCH_1601_TICKS, 0), 2**63 - 1)
