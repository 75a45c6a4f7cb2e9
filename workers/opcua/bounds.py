"""The bounds of what a server may send us. They hold whatever it says and whatever it sends.

A message is bounded while it is still arriving: UNKNOWN_MOST_BYTES until a session is active, when anybody may be at
the other end, and then opcua.max_message_bytes. What asyncua decodes into objects, rather than our own decoder, is
bounded more closely: DECODED_MOST_BYTES, no length below -1, no more fields than the size explains, and no more time
than that takes on a slow machine. Otherwise four bytes could ask for 2^31 empty texts or send asyncua in circles, and
a megabyte of empty values would hold up everybody else in the worker for ten seconds. tests/workers/opcua/test_seam.py
and test_hostile_servers.py hold these seams.
"""

from __future__ import annotations

import time
from typing import Any

from asyncua import ua
from asyncua.common.connection import SecureConnection, TransportLimits
from asyncua.common.utils import Buffer
from asyncua.ua.uaerrors import UaError

# What our Hello says we can receive: asyncua's default, and what a server may fill a chunk up to (Part 6, 7.1.2.3).
CHUNK_MOST_BYTES = 65_536
# No peer may ask for smaller chunks than this (Part 6, 7.1.2.3). A small device that does gets what it asks for, down
# to the second.
CHUNK_LEAST_BYTES = 8_192
SENT_LEAST_BYTES = 1_024
# What asyncua may make objects of: before a session is active, and afterwards.
UNKNOWN_MOST_BYTES = 256 * 1024
DECODED_MOST_BYTES = 1024 * 1024
# Fields of real answers have 2.5 bytes each and more (references of a browse are the smallest).
_LEAST_BYTES_PER_FIELD = 2
_FIELDS_ALWAYS = 1_000
# Of processor time. A megabyte of references takes 0.4 s on a desktop of 2024; a collection of garbage that falls into
# it, some more, however small the answer is.
_ALWAYS_S, _PER_MEGABYTE_S = 2.0, 2.0
_LOOK_AT_THE_CLOCK_FIELDS = 512


class ClampedLimits(TransportLimits):
    """The limits of what we receive: ours, whatever the server's Acknowledge says."""

    def update_client_limits(self, msg: ua.Acknowledge) -> None:
        """Take over only how large our own chunks may be."""
        self.max_send_buffer = min(max(int(msg.ReceiveBufferSize), SENT_LEAST_BYTES), CHUNK_MOST_BYTES)


def limits(max_message_bytes: int) -> ClampedLimits:
    """Return limits for messages of this size: the chunk count leaves room for chunks that are half empty."""
    return ClampedLimits(
        max_recv_buffer=CHUNK_MOST_BYTES,
        max_send_buffer=CHUNK_LEAST_BYTES,
        max_chunk_count=max(16, 2 * max_message_bytes // CHUNK_LEAST_BYTES),
        max_message_size=max_message_bytes,
    )


class _Allowance:
    """What is left of one message's fields and time; all copies of its buffer share it."""

    __slots__ = ("_fields", "_size_bytes", "_until_s")

    def __init__(self, size_bytes: int) -> None:
        self._fields = _FIELDS_ALWAYS + size_bytes // _LEAST_BYTES_PER_FIELD
        self._size_bytes = size_bytes
        self._until_s = 0.0

    def take(self) -> None:
        """Count a field. Raises UaError when it is one too many, or takes too long."""
        self._fields -= 1
        if self._fields < 0:
            raise UaError("more fields than its size explains")
        if self._fields % _LOOK_AT_THE_CLOCK_FIELDS == 0:
            now_s = time.thread_time()
            if not self._until_s:
                self._until_s = now_s + _ALWAYS_S + _PER_MEGABYTE_S * self._size_bytes / DECODED_MOST_BYTES
            elif now_s > self._until_s:
                raise UaError("it takes too long to read")


class BoundedBuffer(Buffer):
    """What asyncua decodes, without the ways in which a length can lead it astray."""

    def __init__(
        self, data: bytes, start_pos: int = 0, size: int = -1, allowance: _Allowance | None = None
    ) -> None:
        super().__init__(data, start_pos, size)
        self._allowance = allowance or _Allowance(len(data))

    def read(self, size: int) -> bytes:
        """Take `size` bytes. Raises UaError where asyncua would go backwards, or on and on."""
        if size < 0:
            raise UaError(f"a length of {size}")
        self._allowance.take()
        return super().read(size)

    def skip(self, size: int) -> None:
        """Leave out `size` bytes. Raises UaError for a length below 0."""
        if size < 0:
            raise UaError(f"a length of {size}")
        super().skip(size)

    def copy(self, size: int = -1) -> BoundedBuffer:
        """Return another view on the same bytes, with the same bounds."""
        if size == -1 or size > self._size:
            size = self._size
        return BoundedBuffer(self._data, self._cur_pos, size, self._allowance)


class _Message(ua.Message):
    def body(self) -> BoundedBuffer:
        return BoundedBuffer(b"".join(chunk.Body for chunk in self._chunks))


class BoundedConnection(SecureConnection):
    """asyncua's channel state, whose messages are read within the bounds."""

    def _receive(self, msg: Any) -> ua.Message | None:
        message = super()._receive(msg)
        return message and _Message(message._chunks)  # type: ignore[no-untyped-call]
