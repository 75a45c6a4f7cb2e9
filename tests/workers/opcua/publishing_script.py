"""A channel that answers what a test says, byte for byte, and a pump that publishes through it."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import replace
from typing import cast
from uuid import uuid4

import numpy as np
from asyncua.ua.uaerrors import BadSubscriptionIdInvalid

from engine.continuity import Continuity
from engine.errors import ConnectionRefused, ScadaError
from engine.gaps import Cause
from tests.workers.opcua.tenant import FAST, Tenant, until
from workers.opcua.acknowledgements import Acknowledgements
from workers.opcua.channel import Channel
from workers.opcua.flow import REPUBLISH, Flow
from workers.opcua.pump import Pump
from workers.opcua.seam import Answer

SLOTS = np.zeros(1, np.uint32)
BAD_TIMEOUT = 0x800A_0000
BAD_SUBSCRIPTION_ID_INVALID = 0x8028_0000
BAD_MESSAGE_NOT_AVAILABLE = 0x807B_0000
BAD_NO_SUBSCRIPTION = 0x8079_0000
BAD_TOO_MANY_PUBLISH_REQUESTS = 0x8078_0000


class Script:
    """Stands where the Channel does, and keeps what was published; the test answers."""

    session_timeout_s = 60.0

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[Answer]] = []
        self.published: list[list[tuple[int, int]]] = []
        self.aborted: ScadaError | None = None
        self.touched = 0
        self.gone: set[int] = set()
        # Sequence number -> what a Republish is answered with; any other one is BadMessageNotAvailable.
        self.kept: dict[int, bytes] = {}
        self.asked: list[int] = []

    @property
    def lost(self) -> bool:
        return self.aborted is not None

    @property
    def acked(self) -> list[int]:
        return [number for acks in self.published for _, number in acks]

    def publish(self, acks: list[tuple[int, int]]) -> asyncio.Future[Answer]:
        if self.aborted:
            raise self.aborted
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.published.append(list(acks))
        self.waiting.append(future)
        return future

    def failed(self, exc: BaseException) -> ScadaError:
        return self.aborted or cast(ScadaError, exc)

    def abort(self, reason: ScadaError) -> None:
        self.aborted = self.aborted or reason
        for future in self.waiting:
            future.set_exception(self.aborted)
        self.waiting.clear()

    async def touch(self, subscription_ids: list[int]) -> None:
        self.touched += 1
        if self.gone.intersection(subscription_ids):
            raise ConnectionRefused("no sign of life") from BadSubscriptionIdInvalid()  # type: ignore[no-untyped-call]

    async def call(self, type_id: int, body: bytes, *, doing: str) -> bytes:
        assert (type_id, doing) == (REPUBLISH, "a message was not sent again")
        subscription_id, number = struct.unpack("<II", body)
        self.asked.append(number)
        await asyncio.sleep(0)
        if subscription_id in self.gone:
            return fault(BAD_SUBSCRIPTION_ID_INVALID)
        return self.kept.get(number, fault(BAD_MESSAGE_NOT_AVAILABLE))

    def answer(self, body: bytes) -> None:
        self.waiting.pop(0).set_result(memoryview(body))


def header(type_id: int, result: int = 0) -> bytes:
    return b"\x01\x00" + struct.pack("<HqIIBiHB", type_id, 0, 1, result, 0, -1, 0, 0)


def data(
    sequence: int,
    *values: float,
    handle: int = 0,
    subscription_id: int = 7,
    available: tuple[int, ...] | None = None,
) -> bytes:
    return response(
        sequence, 1, changes(*values, handle=handle), subscription_id=subscription_id, available=available
    )


def republished(sequence: int, *values: float) -> bytes:
    return header(835) + struct.pack("<Iqi", sequence, 0, 1) + changes(*values)


def changes(*values: float, handle: int = 0) -> bytes:
    items = b"".join(
        struct.pack("<IBBdI", handle, 0x03, 11, value, 0) for value in values
    )  # value and status, type Double
    body = struct.pack("<i", len(values)) + items + struct.pack("<i", -1)
    return b"\x01\x00" + struct.pack("<HBi", 811, 1, len(body)) + body


def response(
    sequence: int,
    count: int,
    notifications: bytes = b"",
    *,
    results: tuple[int, ...] = (),
    subscription_id: int = 7,
    available: tuple[int, ...] | None = None,
) -> bytes:
    kept = () if available is None else available
    listed = struct.pack(f"<i{len(kept)}I", -1 if available is None else len(kept), *kept)
    message = struct.pack("<I", subscription_id) + listed
    message += struct.pack("<BIqi", 0, sequence, 0, count) + notifications
    acked = struct.pack(f"<i{len(results)}I", len(results), *results)
    return header(829) + message + acked + struct.pack("<i", -1)


def keep_alive(sequence: int, subscription_id: int = 7) -> bytes:
    return response(sequence, -1, subscription_id=subscription_id)


def fault(result: int) -> bytes:
    return header(397, result)


def status_change(sequence: int, status: int) -> bytes:
    body = struct.pack("<IB", status, 0)
    return response(sequence, 1, b"\x01\x00" + struct.pack("<HBi", 820, 1, len(body)) + body)


def flow_of(subscription_id: int) -> Flow:
    return Flow(subscription_id, publishing_interval_s=0.02, keep_alive_s=0.1, lifetime_s=60.0, slots=SLOTS)


class Running:
    """A pump that runs in a task."""

    def __init__(self, script: Script, tenant: Tenant, *, requests: int = 2) -> None:
        self.script = script
        self.tenant = tenant
        self.continuity = Continuity(tenant.ring)
        self.flows = [flow_of(7)]
        self.lost: list[tuple[int, str]] = []
        self.connection_id = uuid4()
        self.acks = Acknowledgements()
        self._requests = requests
        self.pump = self.pump_over(script)
        self.task = asyncio.create_task(self.pump.run())

    def pump_over(self, script: Script) -> Pump:
        """Return a pump that goes on with the same subscriptions."""
        return Pump(
            channel=cast(Channel, script),
            connection_id=self.connection_id,
            flows=self.flows,
            ring=self.tenant.ring,
            slots=SLOTS,
            counters=self.tenant.counters,
            settings=replace(FAST, publish_requests=self._requests, request_timeout_s=0.05),
            sink=self.tenant.sink,
            continuity=self.continuity,
            ended=lambda flow, reason: self.lost.append((flow.subscription_id, reason)),
            acks=self.acks,
        )

    async def replaced(self, answers: int) -> None:
        """Wait until a publish request was sent for each of so many answers, behind the first two."""
        await until(lambda: len(self.script.published) == 2 + answers)

    def gap(self) -> bool:
        """Whether rows were said to be missing."""
        return any(mark.cause == Cause.MISSING_MESSAGE for mark in self.continuity._marks)

    async def ended(self) -> BaseException:
        async with asyncio.timeout(5.0):
            await asyncio.wait([self.task])
        error = self.task.exception()
        assert error is not None
        return error
