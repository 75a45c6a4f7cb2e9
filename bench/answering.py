"""A server without a network: publish responses as asyncua writes them, and a transport that answers with them at once.

Owns what stands where a server would be for bench `decode`, and the pump that is measured against it.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

import numpy as np
from asyncua import ua
from asyncua.ua.ua_binary import struct_to_binary

from engine._fastpath import Ring
from engine.continuity import Continuity
from engine.metrics import Counter, MetricsPage
from engine.settings import OpcuaSettings
from workers.opcua.channel import Channel
from workers.opcua.flow import Flow
from workers.opcua.pump import Pump
from workers.opcua.seam import RawProtocol
from workers.opcua.sink import ConnectionReport, Message

RING_ROWS = 4_096
_CHUNK = struct.Struct("<4sIIIII")
_REQUEST_ID = struct.Struct("<I")
_SUBSCRIPTION_ID = 1
_MARK = 0x5A5A_5A5A


def message(values: int, *, sequence_number: int = 1) -> bytes:
    """Return a PublishResponse with this many doubles, as asyncua's serializer writes it."""
    # asyncua's number types are int at run time and distinct to a type checker.
    number: Any = int
    when: Any = datetime(2025, 1, 1, tzinfo=UTC)
    items = [
        ua.MonitoredItemNotification(
            number(handle),
            ua.DataValue(
                ua.Variant(100 + handle * 0.25, ua.VariantType.Double),
                SourceTimestamp=when + timedelta(microseconds=handle),
                ServerTimestamp=when,
            ),
        )
        for handle in range(values)
    ]
    response = ua.PublishResponse()
    response.Parameters.SubscriptionId = number(1)
    response.Parameters.NotificationMessage.SequenceNumber = number(sequence_number)
    response.Parameters.NotificationMessage.PublishTime = when
    response.Parameters.NotificationMessage.NotificationData = [ua.DataChangeNotification(items, [])]
    return bytes(struct_to_binary(response))


class Answering:
    """A pump with its byte stream, and the transport below it that answers publish requests."""

    def __init__(self) -> None:
        self._page = MetricsPage.create(1)
        self._counters = self._page.shard(0).tenant("bench")

    def __enter__(self) -> Answering:
        return self

    def __exit__(self, *_: object) -> None:
        self._page.close()

    async def measure(self, messages: int) -> float:
        """Return the seconds a message that the pump takes, with all that is below and behind it."""
        settings = OpcuaSettings()
        channel = Channel("opc.tcp://127.0.0.1:1", settings)
        transport = _Transport(channel)
        sink = _Sink(messages)
        flow = Flow(
            _SUBSCRIPTION_ID,
            publishing_interval_s=1.0,
            keep_alive_s=60.0,
            lifetime_s=600.0,
            slots=np.zeros(1, np.uint32),
        )
        pump = Pump(
            channel=channel,
            connection_id=UUID(int=1),
            flows=[flow],
            ring=sink.ring,
            slots=np.zeros(1, np.uint32),
            counters=self._counters,
            settings=settings,
            sink=sink,
            continuity=Continuity(sink.ring),
            ended=_never,
        )
        missed = self._missed
        began_s = time.perf_counter()
        running = asyncio.create_task(pump.run())
        await asyncio.wait(
            [running, asyncio.create_task(sink.enough.wait())], return_when=asyncio.FIRST_COMPLETED
        )
        took_s = time.perf_counter() - began_s
        transport.answers = False
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        if self._missed != missed:
            raise RuntimeError(f"{self._missed - missed} messages are said to be missing, and none is")
        return took_s / sink.rows

    @property
    def _missed(self) -> int:
        return self._page.snapshot().tenants["bench"].counters[Counter.MISSED_MESSAGES]


class _Transport:
    """Takes requests of an open channel without security; the answer arrives with the next turn of the loop."""

    def __init__(self, channel: Channel) -> None:
        transport: Any = channel._client.uaclient
        protocol: RawProtocol = transport._make_protocol()
        # The state that a channel has when it is open, and its session is active.
        protocol._connection._peer_sequence_number = 0
        protocol.authentication_token = ua.NodeId()
        protocol.connection_made(cast(asyncio.Transport, self))
        self.answers = True
        self._arrive = protocol.data_received
        self._loop = asyncio.get_running_loop()
        self._sequence = 0
        self._before, self._after = message(1, sequence_number=_MARK).split(_REQUEST_ID.pack(_MARK))
        self._chunk_bytes = _CHUNK.size + len(self._before) + 4 + len(self._after)

    def write(self, request: bytes) -> None:
        """Answer the request."""
        if not self.answers:
            return
        self._sequence += 1
        (request_id,) = _REQUEST_ID.unpack_from(request, 20)
        head = _CHUNK.pack(b"MSGF", self._chunk_bytes, 0, 0, self._sequence, request_id)
        answer = head + self._before + _REQUEST_ID.pack(self._sequence) + self._after
        self._loop.call_soon(self._arrive, answer)

    def is_closing(self) -> bool:
        """Never."""
        return False

    def abort(self) -> None:
        """End nothing: there is no socket."""


class _Sink:
    """The owner of the ring; it counts, and empties it when it is half full."""

    def __init__(self, wanted: int) -> None:
        self.ring = Ring(RING_ROWS)
        self.rows = 0
        self.enough = asyncio.Event()
        self._wanted = wanted

    accepting = True

    def on_accepting(self, call: Callable[[], None]) -> Callable[[], None]:  # noqa: ARG002
        """Never change."""
        return lambda: None

    def stored(self, rows: int, message: Message | None = None) -> None:
        """Count."""
        if message is not None:
            message.durable(message.position)
        self.rows += rows
        if len(self.ring) > RING_ROWS // 2:
            self.ring.drain(RING_ROWS)
        if self.rows >= self._wanted:
            self.enough.set()

    async def wait_for_space(self) -> None:
        """Never wanted."""

    def report(self, report: ConnectionReport) -> None:
        """Nobody asks."""


def _never(flow: Flow, reason: str) -> None:
    raise RuntimeError(f"the subscription {flow.subscription_id} ended: {reason}")
