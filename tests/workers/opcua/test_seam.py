"""Every seam into asyncua that workers/opcua/seam.py lists, so that an update which moves one fails here."""

from __future__ import annotations

import asyncio
import struct
import tracemalloc
from importlib.metadata import version
from typing import Any, cast

import pytest
from asyncua import ua
from asyncua.common.connection import MessageChunk, SecureConnection
from asyncua.common.utils import Buffer
from asyncua.crypto.security_policies import SecurityPolicyNone
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.ua_binary import nodeid_from_binary, struct_from_binary, struct_to_binary

from engine.errors import ConnectionRefused, MalformedMessage
from tests.workers.opcua.plant import Plant
from tests.workers.opcua.tenant import FAST
from workers.opcua.bounds import ClampedLimits, limits
from workers.opcua.channel import Channel
from workers.opcua.seam import RawProtocol, body_of

CHANNEL, TOKEN = 5, 13
NO_SECURITY: Any = cast(Any, SecurityPolicyNone)()
SESSION = ua.NodeId.from_string("ns=1;s=session")
MESSAGE_MOST = 100_000


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close


def protocol() -> tuple[RawProtocol, Wire]:
    """Return a protocol whose secure channel is open, and that has received its first message."""
    made = RawProtocol(1.0, NO_SECURITY, limits(MESSAGE_MOST))
    wire = Wire()
    made.connection_made(cast(asyncio.Transport, wire))
    made.authentication_token = SESSION
    made._connection._open = True
    made._connection.security_token.ChannelId = ua.UInt32(CHANNEL)
    made._connection.security_token.TokenId = ua.UInt32(TOKEN)
    made._connection._peer_sequence_number = 0
    return made, wire


def chunk(body: bytes, *, sequence: int = 1, request: int = 1, kind: bytes = b"MSGF") -> bytes:
    return struct.pack("<4sIIIII", kind, len(body) + 24, CHANNEL, TOKEN, sequence, request) + body


async def test_the_pinned_version_is_installed() -> None:
    assert version("asyncua") == "2.1.0"


async def test_the_client_uses_our_transport_and_never_publishes_by_itself(plant: Plant) -> None:
    channel = Channel(plant.endpoint, FAST)
    try:
        await channel.open()
        assert isinstance(channel.protocol, RawProtocol)
        await channel.session.create_subscription(ua.CreateSubscriptionParameters(), lambda _result: None)
        session: Any = channel.session
        client: Any = channel._client
        assert session._subscription_callbacks
        assert session._publish_task is None
        assert client._supervisor_task is None
        assert client._stale_watchdog_task is None
        assert client._renew_channel_task is None
    finally:
        await channel.close(1.0)


async def test_a_client_that_was_closed_leaves_no_task(plant: Plant) -> None:
    before = asyncio.all_tasks()
    channel = Channel(plant.endpoint, FAST)
    await channel.open()
    await channel.close(1.0)
    assert asyncio.all_tasks() == before
    with pytest.raises(ConnectionRefused):
        channel.publish([])


async def test_a_renewed_channel_goes_on_publishing(plant: Plant) -> None:
    channel = Channel(plant.endpoint, FAST)
    try:
        await channel.open()
        params = ua.CreateSubscriptionParameters(10.0, 300, 1)
        await channel.session.create_subscription(params, lambda _result: None)
        for _ in range(3):
            answer = await asyncio.wait_for(channel.publish([]), 2.0)
            assert bytes(body_of(answer))[:4] == b"\x01\x00\x3d\x03"
            await channel._client.open_secure_channel(renew=True)
    finally:
        await channel.close(1.0)


async def test_a_publish_request_reads_as_asyncua_would_have_written_it() -> None:
    raw, wire = protocol()
    raw.publish([(7, 1), (7, 2)])
    data = Buffer(bytes(wire.written[24:]))
    assert nodeid_from_binary(data).Identifier == ObjectIds.PublishRequest_Encoding_DefaultBinary
    header = struct_from_binary(ua.RequestHeader, data)
    acks = struct_from_binary(ua.PublishParameters, data).SubscriptionAcknowledgements
    assert len(data) == 0
    request = ua.PublishRequest()
    request.RequestHeader = header
    request.Parameters.SubscriptionAcknowledgements = acks
    assert struct_to_binary(request) == bytes(wire.written[24:])
    assert header.AuthenticationToken == SESSION
    assert header.RequestHandle == 1
    assert [(ack.SubscriptionId, ack.SequenceNumber) for ack in acks] == [(7, 1), (7, 2)]


async def test_a_chunk_is_framed_as_asyncua_frames_it() -> None:
    ours, _ = protocol()
    theirs, _ = protocol()
    for body in (b"a", b"b" * 900, b"c" * 30_000):
        ours._connection._sequence_number = theirs._connection._sequence_number = 41
        assert ours._framed(body, 9) == theirs._connection.message_to_binary(body, request_id=9)
        assert ours._connection._sequence_number == theirs._connection._sequence_number


async def test_request_ids_and_sequence_numbers_begin_again_behind_the_last() -> None:
    raw, wire = protocol()
    raw._request_id = raw._request_handle = raw._connection._sequence_number = 0xFFFF_FFFF
    raw.publish([])
    assert struct.unpack_from("<II", wire.written, 16) == (1, 1)


@pytest.mark.parametrize("plain", [True, False], ids=["framed here", "framed by asyncua"])
async def test_an_answer_is_the_body_from_its_type_id_on(plain: bool) -> None:
    raw, _ = protocol()
    raw._plain = plain
    answers = [raw.publish([]) for _ in range(2)]
    raw.data_received(chunk(b"first", sequence=1, request=1) + chunk(b"second", sequence=2, request=2))
    assert [bytes(body_of(await answer)) for answer in answers] == [b"first", b"second"]


async def test_a_service_fault_is_an_answer_like_any_other() -> None:
    raw, _ = protocol()
    answer = raw.publish([])
    fault = struct_to_binary(ua.ServiceFault())
    raw.data_received(chunk(fault))
    assert bytes(body_of(await answer)) == fault


async def test_an_answer_of_several_chunks_is_put_together() -> None:
    raw, _ = protocol()
    answer = raw.publish([])
    raw.data_received(chunk(b"one ", sequence=1, kind=b"MSGC") + chunk(b"two", sequence=2))
    assert bytes(body_of(await answer)) == b"one two"


async def test_requests_that_were_answered_in_several_chunks_are_forgotten() -> None:
    raw, _ = protocol()
    for place in range(200):
        raw.publish([])
        raw.data_received(chunk(b"a", sequence=2 * place + 1, request=place + 1, kind=b"MSGC"))
        raw.data_received(chunk(b"b", sequence=2 * place + 2, request=place + 1))
    assert len(raw._raw) <= 65


async def test_a_stream_may_be_cut_anywhere() -> None:
    stream = (
        chunk(b"first", sequence=1, request=1)
        + chunk(b"", sequence=2, request=2)
        + chunk(b"third" * 99, sequence=3, request=3)
    )
    for size in range(1, len(stream) + 1):
        raw, _ = protocol()
        answers = [raw.publish([]) for _ in range(3)]
        for start in range(0, len(stream), size):
            raw.data_received(stream[start : start + size])
        assert [bytes(body_of(await answer)) for answer in answers] == [b"first", b"", b"third" * 99]


@pytest.mark.parametrize(
    "data",
    [
        b"MSGF" + struct.pack("<I", 0x7FFF_FFFF),
        b"MSGF" + struct.pack("<I", 65_537),
        b"MSGF" + struct.pack("<I", 11),
        b"MSGX" + struct.pack("<I", 40),
        b"HELF" + struct.pack("<I", 40),
        b"ACKF" + struct.pack("<I", 40),
        b"\x00" * 8,
    ],
)
async def test_a_header_that_cannot_be_one_ends_the_connection_at_once(data: bytes) -> None:
    raw, wire = protocol()
    answer = raw.publish([])
    raw.data_received(data)
    assert wire.closed
    with pytest.raises(MalformedMessage):
        await answer
    with pytest.raises(MalformedMessage):
        raw.publish([])


@pytest.mark.parametrize(
    "changes", [{"sequence": 9}, {"request": 9}, {"kind": b"OPNF"}], ids=["sequence", "request", "kind"]
)
async def test_a_chunk_out_of_place_ends_the_connection(changes: dict[str, Any]) -> None:
    raw, wire = protocol()
    answer = raw.publish([])
    raw.data_received(chunk(b"body", **changes))
    assert wire.closed
    with pytest.raises(MalformedMessage):
        await answer


async def test_chunks_without_end_are_given_up_at_the_message_limit() -> None:
    raw, wire = protocol()
    answer = raw.publish([])
    tracemalloc.start()
    sequence = 0
    while not wire.closed:
        sequence += 1
        raw.data_received(chunk(bytes(10_000), sequence=sequence, kind=b"MSGC"))
        assert sequence <= MESSAGE_MOST // 10_000 + 1
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 5 * MESSAGE_MOST
    assert isinstance(raw.failure, MalformedMessage)
    assert answer.exception() is not None


async def test_empty_chunks_without_end_are_given_up_at_the_chunk_limit() -> None:
    raw, wire = protocol()
    raw.publish([]).add_done_callback(lambda answer: answer.exception())
    for sequence in range(1, 100):
        raw.data_received(chunk(b"", sequence=sequence, kind=b"MSGC"))
        if wire.closed:
            break
    assert wire.closed


@pytest.mark.parametrize("length", [-1, 5, -16, 0x7FFF_FFFF], ids=["null", "right", "backwards", "huge"])
async def test_an_error_message_says_why_and_cannot_send_us_in_circles(length: int) -> None:
    raw, wire = protocol()
    answer = raw.publish([])
    body = struct.pack("<Ii", 0x8010_0000, length) + b"no go"
    raw.data_received(b"ERRF" + struct.pack("<I", 8 + len(body)) + body)
    assert wire.closed
    with pytest.raises(ConnectionRefused, match="the server closed the connection: "):
        await answer


async def test_a_lost_connection_ends_every_request() -> None:
    raw, _ = protocol()
    answers = [raw.publish([]) for _ in range(2)]
    raw.connection_lost(None)
    for answer in answers:
        with pytest.raises(ConnectionRefused, match="the server closed the connection"):
            await answer


async def test_a_fault_that_comes_while_the_channel_is_renewed_is_its_requests_alone() -> None:
    raw, wire = protocol()
    raw._open_secure_channel_exchange = ua.OpenSecureChannelParameters()
    raw._callbackmap[1] = waiting = asyncio.get_running_loop().create_future()
    fault = struct_to_binary(ua.ServiceFault())
    raw.data_received(chunk(fault))
    assert bytes(body_of(await waiting)) == fault
    assert not wire.closed


async def test_the_server_cannot_raise_our_limits() -> None:
    raw, _ = protocol()
    body = struct.pack("<IIIII", 0, 0xFFFF_FFFF, 0xFFFF_FFFF, 0, 0)
    raw._callbackmap[0] = asyncio.get_running_loop().create_future()
    raw.data_received(b"ACKF" + struct.pack("<I", 8 + len(body)) + body)
    own = raw._connection._limits
    assert isinstance(own, ClampedLimits)
    assert (own.max_recv_buffer, own.max_send_buffer) == (65_536, 65_536)
    assert own.max_message_size == MESSAGE_MOST
    assert 16 <= own.max_chunk_count <= MESSAGE_MOST


async def test_a_small_receive_buffer_of_the_server_is_respected() -> None:
    own = limits(MESSAGE_MOST)
    own.update_client_limits(ua.Acknowledge(ReceiveBufferSize=ua.UInt32(9_000)))
    assert (own.max_recv_buffer, own.max_send_buffer) == (65_536, 9_000)


def test_asyncua_still_keeps_its_channel_state_where_we_use_it() -> None:
    connection = SecureConnection(NO_SECURITY, limits(MESSAGE_MOST))
    assert connection._peer_sequence_number is None
    assert (connection._sequence_number, connection._incoming_parts) == (0, [])
    assert {"ChannelId", "TokenId"} <= set(type(connection.security_token).__dataclass_fields__)
    assert MessageChunk(NO_SECURITY.symmetric_cryptography).Body == b""
