"""The small HTTP server against clients that are wrong, slow or too many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from email.message import Message

import pytest

from engine.errors import ConfigurationError
from workers import plain_http
from workers.plain_http import Answer, PlainHttp

_DEADLINE_S = 10.0


async def hello(_: Message) -> Answer:
    return Answer(b"hello\n")


async def large(_: Message) -> Answer:
    return Answer(b"x" * 64_000_000)


@pytest.fixture
async def server() -> AsyncIterator[PlainHttp]:
    made = PlainHttp({"/hello": hello, "/large": large})
    yield made
    await made.stop()


@pytest.fixture
async def port(server: PlainHttp) -> int:
    return await server.start("127.0.0.1", 0, setting="metrics_port")


async def talk(port: int, request: bytes) -> bytes:
    """Send bytes, return all that comes back until the server closes."""
    async with asyncio.timeout(_DEADLINE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        try:
            return await reader.read()
        finally:
            writer.close()


async def test_a_request_gets_one_answer_and_the_connection_ends(port: int) -> None:
    answer = await talk(port, b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\nGET /hello HTTP/1.1\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Connection: close" in head
    assert body == b"hello\n"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /../etc/passwd HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /hello HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", b"405"),
        (b"GET /hello HTTP/2.0\r\n\r\n", b"505"),
        (b"GET /hello\r\n\r\n", b"400"),
        (b"GET  /hello HTTP/1.1\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"400"),
        (b"\xff\xfe /hello HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /hello HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", b"400"),
        (b"GET /hello HTTP/1.1\r\n" + b"X: a\r\n" * 200 + b"\r\n", b"400"),
    ],
)
async def test_what_is_not_a_request_for_a_page_gets_an_error(
    port: int, request_bytes: bytes, status: bytes
) -> None:
    assert (await talk(port, request_bytes)).startswith(b"HTTP/1.1 " + status)
    assert (await talk(port, b"GET /hello HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200")


async def test_the_404_names_the_pages_and_the_405_the_methods(port: int) -> None:
    assert b"there are /hello /large\n" in await talk(port, b"GET / HTTP/1.1\r\n\r\n")
    assert b"\r\nAllow: GET, HEAD\r\n" in await talk(port, b"DELETE /hello HTTP/1.1\r\n\r\n")


async def test_clients_that_never_finish_their_request_do_not_keep_others_out(port: int) -> None:
    slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(200)]
    for _, writer in slow:
        writer.write(b"GET /hello HTTP/1.1\r\n")
    for _ in range(3):
        assert (await talk(port, b"GET /hello HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200")
    for _, writer in slow:
        writer.transport.abort()


async def test_a_client_that_sends_byte_after_byte_is_cut_off_in_time(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain_http, "_HEAD_TIMEOUT_S", 0.3)
    async with asyncio.timeout(_DEADLINE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        closed = asyncio.create_task(reader.read())
        while not closed.done():
            writer.write(b"G")
            await asyncio.wait([closed], timeout=0.05)
    assert closed.exception() is not None or closed.result() == b""
    writer.transport.abort()


async def test_a_client_that_does_not_take_its_answer_is_cut_off_in_time(
    server: PlainHttp, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain_http, "_ANSWER_TIMEOUT_S", 0.3)
    _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1_024)
    writer.write(b"GET /large HTTP/1.1\r\n\r\n")
    loop = asyncio.get_running_loop()
    until_s = loop.time() + _DEADLINE_S
    began = False
    while not began or server._open:
        assert loop.time() < until_s
        await asyncio.sleep(0.01)
        began = began or bool(server._open)
    assert (await talk(port, b"GET /hello HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200")
    writer.transport.abort()


@pytest.mark.parametrize(
    ("host", "reason"),
    [("192.0.2.1", "does not have that address"), ("no-such-host.invalid", "cannot be resolved")],
)
async def test_an_address_that_cannot_be_had_is_named_with_its_setting(host: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"metrics_port: cannot listen on {host}:0: .*{reason}"):
        await PlainHttp({}).start(host, 0, setting="metrics_port")
