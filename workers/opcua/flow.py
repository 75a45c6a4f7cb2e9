"""What is known of one subscription's messages: which number comes next, and when something was last heard.

Owns the arithmetic of sequence numbers (OPC 10000-4, 5.14.1.1: they run from 1 to 2^32-1 and then from 1 again, 0 is
never one), and the few bytes of a message that are read before it is decoded. Outlives a connection: a resumed
session goes on with the same flow.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

REPUBLISH = 832  # RepublishRequest_Encoding_DefaultBinary

_LAST_SEQUENCE = 0xFFFF_FFFF
# A number further ahead than this is one that lies behind.
_HALF_OF_SEQUENCES = 1 << 31
_PUBLISH_RESPONSE = b"\x01\x00\x3d\x03"
_REPUBLISH_RESPONSE = b"\x01\x00\x43\x03"
_NO_ADDITIONAL_HEADER = b"\0\0\0"
# TypeId, (Timestamp, RequestHandle, ServiceResult), DiagnosticInfo's mask, strings, AdditionalHeader; then the body
# (Part 6, 5.2.2.15 and Part 4, 7.33).
_HEADER = struct.Struct("<4s16xBi3s")
# SubscriptionId, count of AvailableSequenceNumbers.
_SUBSCRIPTION = struct.Struct("<Ii")
# MoreNotifications, SequenceNumber, (PublishTime), count of NotificationData.
_MESSAGE = struct.Struct("<xI8xi")
_NUMBER = struct.Struct("<I")
_REPUBLISH_BODY = struct.Struct("<II")


@dataclass(frozen=True, slots=True)
class Seen:
    """What a publish response says before its values are read."""

    subscription_id: int
    sequence_number: int
    has_data: bool


@dataclass(slots=True)
class Flow:
    """One subscription, as its messages come in."""

    subscription_id: int
    publishing_interval_s: float
    keep_alive_s: float
    lifetime_s: float
    slots: NDArray[np.uint32]
    """The slots of its items, or of more: where readings are missing when a message is."""
    next_sequence: int | None = None
    heard: bool = False
    silent_s: float = 0.0
    ended: bool = False
    begun: bool = False
    """The journal says that it has begun: no position of an earlier one with the same id counts any more."""
    restored: bool = False
    """An earlier process made it, and nothing was heard of it in this one."""

    def count_ahead(self, number: int) -> int:
        """Return how many messages are missing before this one; below 0: it was taken already."""
        if self.next_sequence is None or number == 0:
            return 0
        ahead = (number - self.next_sequence) % _LAST_SEQUENCE
        return ahead if ahead < _HALF_OF_SEQUENCES else ahead - _LAST_SEQUENCE

    @property
    def last_taken(self) -> int:
        """The number of the newest message that is in the ring; 0: none."""
        return 0 if self.next_sequence is None else (self.next_sequence - 2) % _LAST_SEQUENCE + 1

    def took(self, number: int) -> None:
        """Note that a message is in the ring."""
        if self.count_ahead(number) >= 0:
            self.next_sequence = number % _LAST_SEQUENCE + 1

    def expect(self, number: int) -> None:
        """Note what a keep-alive said comes next; some repeat the last number, which says nothing."""
        if number and self.count_ahead(number) >= 0:
            self.next_sequence = number

    def skip(self, messages: int) -> None:
        """Give up on the next messages."""
        self.next_sequence = ((self.next_sequence or 1) + messages - 1) % _LAST_SEQUENCE + 1

    def begin_with(self, available: Sequence[int], *, before: int) -> None:
        """Expect the oldest of the messages that the server keeps, where nothing is known of any before `before`."""
        kept = [number for number in available if number]
        if kept:
            self.next_sequence = max(kept, key=lambda number: (before - number) % _LAST_SEQUENCE)

    def ahead(self, numbers: Sequence[int]) -> list[int]:
        """Return those numbers that were not taken yet, in the order in which they were sent."""
        if self.next_sequence is None:
            return sorted(numbers)
        return sorted((n for n in numbers if n and self.count_ahead(n) >= 0), key=self.count_ahead)


def peek(message: bytes | memoryview) -> Seen | None:
    """Return what a publish response is about; None for faults, and where its header is out of the ordinary."""
    try:
        type_id, mask, strings, additional = _HEADER.unpack_from(message)
        if type_id != _PUBLISH_RESPONSE or mask or strings > 0 or additional != _NO_ADDITIONAL_HEADER:
            return None
        subscription_id, available = _SUBSCRIPTION.unpack_from(message, _HEADER.size)
        at = _HEADER.size + _SUBSCRIPTION.size + 4 * max(available, 0)
        number, notifications = _MESSAGE.unpack_from(message, at)
    except struct.error:
        return None  # too short; the decoder says where
    return Seen(subscription_id, number, notifications > 0)


def available_numbers(message: bytes | memoryview) -> tuple[int, ...]:
    """Return the numbers of the messages that the server keeps, of a publish response that `peek` understands."""
    _, count = _SUBSCRIPTION.unpack_from(message, _HEADER.size)
    return struct.unpack_from(f"<{max(count, 0)}I", message, _HEADER.size + _SUBSCRIPTION.size)


def republish_body(subscription_id: int, number: int) -> bytes:
    """Return the body of a RepublishRequest."""
    return _REPUBLISH_BODY.pack(subscription_id, number)


def republished_number(message: bytes | memoryview) -> int | None:
    """Return the number of the message in a RepublishResponse; None as for `peek`."""
    try:
        type_id, mask, strings, additional = _HEADER.unpack_from(message)
        if type_id != _REPUBLISH_RESPONSE or mask or strings > 0 or additional != _NO_ADDITIONAL_HEADER:
            return None
        return int(_NUMBER.unpack_from(message, _HEADER.size)[0])
    except struct.error:
        return None
