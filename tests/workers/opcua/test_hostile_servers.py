"""Servers that answer nonsense, too much, or nothing: a clear reason, bounded memory, in time, and nobody else."""

from __future__ import annotations

import asyncio
import struct
import tracemalloc
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from asyncua import ua
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.uaerrors import UaError

from engine.errors import ConnectionRefused, MalformedMessage, ScadaError
from tests.workers.opcua.hostile import (
    ACTIVATE,
    CREATE,
    ENDPOINTS,
    HELLO,
    OPEN,
    READ,
    STEPS,
    HostileServer,
    Request,
)
from tests.workers.opcua.plant import Plant
from tests.workers.opcua.tenant import FAST, Tenant, connection, until
from workers.opcua.bounds import DECODED_MOST_BYTES, UNKNOWN_MOST_BYTES, BoundedBuffer
from workers.opcua.channel import Channel
from workers.opcua.security.policies import SecurityWanted

SETTINGS = replace(FAST, request_timeout_s=0.5)
# What a connect may hold on to at most: a message of the size that is allowed, the objects made of it, and some room.
MEMORY_MOST_BYTES = 24 * 1024 * 1024
SERVICES = (OPEN, ENDPOINTS, CREATE, ACTIVATE)
HUGE = struct.pack("<i", 0x7FFF_FFFF)
BACKWARDS = struct.pack("<i", -4)


def channel(server: HostileServer) -> Channel:
    # Auto, so that GetEndpoints is asked, too.
    return Channel(server.endpoint, SETTINGS, security=SecurityWanted("Auto", "Auto"))


async def failure(server: HostileServer, *, within_s: float = 5.0) -> ScadaError:
    """Connect, and return why it did not work."""
    one = channel(server)
    tracemalloc.start()
    try:
        with pytest.raises(ScadaError) as refused:
            async with asyncio.timeout(within_s):
                await one.open()
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        async with asyncio.timeout(2.0):
            await one.close(1.0)
    assert peak_bytes < MEMORY_MOST_BYTES
    assert one.lost
    return refused.value


def silence(_request: Request) -> None:
    return None


def goodbye(_request: Request) -> Iterator[bytes]:
    yield b"ERRF" + struct.pack("<IIi", 16 + 7, 0x8000_0000 | 0x0D_0000, 7) + b"go away"


def nonsense(_request: Request) -> Iterator[bytes]:
    yield b"HTTP/1.1 400 Bad Request\r\n\r\n"


def another_request(request: Request) -> Iterator[bytes]:
    yield request.chunk(request.header() + bytes(64), request_id=4_711)


def endless_chunks(request: Request) -> Iterator[bytes]:
    for ahead in range(10_000):
        yield request.chunk(bytes(60_000), kind=b"MSGC", ahead=ahead)


def huge_table(request: Request) -> Iterable[bytes]:
    return request.message(request.header() + HUGE)


def backwards(request: Request) -> Iterable[bytes]:
    # Each empty text of the table sends asyncua back to read it again.
    return request.message(request.header() + HUGE + BACKWARDS * 16)


def flood(request: Request) -> Iterable[bytes]:
    return request.message(request.header() + HUGE + b"\xff\xff\xff\xff" * 60_000)


def deep(request: Request) -> Iterable[bytes]:
    # DiagnosticInfo in DiagnosticInfo in ...
    return request.message(request.header()[:-1] + b"\x40" * 200_000)


def too_large(request: Request) -> Iterable[bytes]:
    return request.message(request.header() + bytes(2 * UNKNOWN_MOST_BYTES))


def fault(request: Request) -> Iterable[bytes]:
    return request.message(request.header("fault", status=0x8002_0000) + struct.pack("<i", 0) + bytes(3))


def cut_short(request: Request) -> Iterable[bytes]:
    return request.message(request.header())


@pytest.mark.parametrize("step", STEPS)
async def test_silence_at_any_step_ends_in_time(step: str) -> None:
    async with HostileServer(**{step: silence}) as server:
        reason = await failure(server)
        assert isinstance(reason, ConnectionRefused)
        assert "no answer within 0.5 s" in str(reason)
        assert server.seen[-1] == step


@pytest.mark.parametrize("step", STEPS)
async def test_a_server_that_closes_with_a_reason_is_quoted(step: str) -> None:
    async with HostileServer(**{step: goodbye}) as server:
        reason = await failure(server)
        assert str(reason).startswith("the server closed the connection: ")
        assert str(reason).endswith(" go away")


@pytest.mark.parametrize("step", STEPS)
async def test_another_protocol_is_told_from_ours(step: str) -> None:
    async with HostileServer(**{step: nonsense}) as server:
        reason = await failure(server)
        assert isinstance(reason, MalformedMessage)
        assert "is no kind of chunk" in str(reason)


@pytest.mark.parametrize("step", SERVICES)
@pytest.mark.parametrize(
    "answer",
    [another_request, endless_chunks, huge_table, backwards, flood, deep, too_large, cut_short],
    ids=lambda answer: answer.__name__,
)
async def test_an_answer_that_cannot_be_one_is_refused_in_bounded_memory(step: str, answer: Any) -> None:
    async with HostileServer(**{step: answer}) as server:
        reason = await failure(server)
        words = ("cannot be read", "no answer within", "is no kind of chunk")
        assert any(word in str(reason) for word in words)


@pytest.mark.parametrize("step", SERVICES)
async def test_a_fault_is_named(step: str) -> None:
    async with HostileServer(**{step: fault}) as server:
        assert "BadInternalError" in str(await failure(server))


async def test_a_huge_list_of_endpoints_is_refused() -> None:
    endpoint = ua.ua_binary.struct_to_binary(ua.EndpointDescription())

    def many(request: Request) -> Iterable[bytes]:
        return request.message(
            request.header()
            + struct.pack("<i", 0)
            + bytes(3)
            + struct.pack("<i", 200_000)
            + endpoint * 100_000
        )

    async with HostileServer(**{ENDPOINTS: many}) as server:
        assert "cannot be read" in str(await failure(server))


async def test_a_list_of_endpoints_that_is_just_small_enough_is_judged_in_bounded_memory() -> None:
    endpoint = ua.ua_binary.struct_to_binary(ua.EndpointDescription())
    count = (UNKNOWN_MOST_BYTES - 100) // len(endpoint)

    def many(request: Request) -> Iterable[bytes]:
        return request.message(
            request.header() + struct.pack("<i", 0) + bytes(3) + struct.pack("<i", count) + endpoint * count
        )

    async with HostileServer(**{ENDPOINTS: many}) as server:
        reason = str(await failure(server))
        # tracemalloc makes this several times slower.
        assert "the server offers no endpoint" in reason or "it takes too long to read" in reason


async def test_an_acknowledge_that_is_none_is_refused() -> None:
    def strange(_request: Request) -> Iterator[bytes]:
        yield b"ACKF" + struct.pack("<I", 0xFFFF_FFFF)

    async with HostileServer(**{HELLO: strange}) as server:
        assert isinstance(await failure(server), MalformedMessage)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (bytes(DECODED_MOST_BYTES), f"at most {DECODED_MOST_BYTES} are read"),
        (
            struct.pack("<i", 0) + bytes(3) + struct.pack("<i", 1_000_000) + bytes(1_000_000),
            r"more fields than its size explains|it takes too long to read",
        ),
    ],
    ids=["large", "flood of empty values"],
)
async def test_what_asyncua_reads_is_bounded_in_a_session_too(body: bytes, words: str) -> None:
    async with HostileServer(**{READ: lambda request: request.message(request.header() + body)}) as server:
        one = channel(server)
        await one.open()
        try:
            with pytest.raises(ConnectionRefused, match=words), one.translated("not read"):
                await one.session.read_attributes([ua.NodeId()], AttributeIds.Value)
        finally:
            await one.close(0.2)


def test_time_is_bounded_by_the_processor_time_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr("workers.opcua.bounds.time.thread_time", lambda: now_s)
    buffer = BoundedBuffer(bytes(DECODED_MOST_BYTES))
    for _ in range(2_000):
        buffer.copy().read(1)
    now_s += 5.0
    with pytest.raises(UaError, match="it takes too long to read"):
        _read_all(buffer)


def _read_all(buffer: BoundedBuffer) -> None:
    while buffer:
        buffer.read(1)


async def test_a_raw_answer_may_be_as_large_as_the_settings_say() -> None:
    body = bytes(4 * DECODED_MOST_BYTES)
    async with HostileServer(**{READ: lambda request: request.message(request.header() + body)}) as server:
        one = channel(server)
        await one.open()
        try:
            answer = await one.call(631, bytes(24), doing="not read")
            assert len(answer) > len(body)
        finally:
            await one.close(0.2)


async def test_only_the_connection_to_the_hostile_server_suffers(plant: Plant, tenant: Tenant) -> None:
    async with HostileServer(**{CREATE: endless_chunks}) as server:
        tenant.connect(connection(server.endpoint, "ns=1;s=pressure"))
        tenant.connect(connection(plant.endpoint, "ns=1;s=pressure"))
        await until(lambda: server.connections >= 3)
        await plant.write("pressure", 17.0)
        await tenant.receives(17.0)


def test_a_length_never_goes_backwards() -> None:
    buffer = BoundedBuffer(bytes(16))
    for take in (buffer.read, buffer.skip, buffer.copy().copy(8).read):
        with pytest.raises(UaError, match="a length of -1"):
            take(-1)


def test_copies_share_how_many_fields_are_left() -> None:
    buffer = BoundedBuffer(bytes(4_000))
    for _ in range(3_000):
        buffer.copy().read(0)
    with pytest.raises(UaError, match="more fields than its size explains"):
        buffer.copy().read(0)
