"""Claim `decode`: publish responses -> ring, against asyncua's decoder with its handlers, in the same run.

The messages are what asyncua's own server sends: PublishResponses with one DataChangeNotification of 1 000 doubles,
Good, with source and server timestamps, written by asyncua's serializer when the bench starts. Both sides get the
same bytes.

- Ours: `decode_publish`, as the publish pump calls it. The ring is emptied between rounds, outside of the time.
- Baseline: what a user of asyncua has: `struct_from_binary`, then Subscription.publish_callback, which hands each
  value to `datachange_notification` in a task of its own; timed until the last handler has run.

us_per_message is the fixed cost of a message: the real Pump and byte stream, with their framing, acknowledgements and
sequence numbers, against a server that answers each publish request at once with a message of one value. decode_us of
it is the decoder's.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import time
from typing import Any

import numpy as np
import uvloop
from asyncua import ua
from asyncua.client.client import Client
from asyncua.common.subscription import Subscription, SubscriptionItemData
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import struct_from_binary
from numpy.typing import NDArray

from bench.answering import Answering, message
from bench.report import Progress, Report, Target, interleaved, median_ratio
from engine._fastpath import Ring, decode_publish

VALUES = 1_000
ROUNDS = 15
# The ring of a tenant holds this many rows by default; a round of ours fills most of it.
RING_ROWS = 262_144
MESSAGES = 250
EMPTY_MESSAGES = 20_000
PUMPED_MESSAGES = 5_000
BASELINE_MESSAGES = 5

TARGETS = (
    Target("ns_per_value", "<=", 25, timed=True),
    Target("us_per_message", "<=", 40, timed=True),
    # A quarter of what is measured: far below noise, far above any other way to decode.
    Target("speedup", ">=", 500),
)
MEANING = {
    "ns_per_value": "our decode, messages of 1,000 values",
    "baseline_ns_per_value": "asyncua: decode, callback, one handler call a value",
    "us_per_message": "fixed cost of a message, pump and decode",
    "decode_us_per_message": "of that the decoder's, a message without values",
    "speedup": "baseline / ours, median of rounds",
}


def run(progress: Progress) -> Report:
    """Measure the claim."""
    logging.getLogger("asyncua").setLevel(logging.WARNING)
    full = message(VALUES)
    ring = Ring(RING_ROWS)
    slots = np.arange(VALUES, dtype=np.uint32)
    with (
        asyncio.Runner() as runner,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as ours,
        Answering() as answering,
    ):
        baseline = Baseline(VALUES)
        results = interleaved(
            ROUNDS,
            {
                "ours": lambda: _ours(VALUES, ring, slots, MESSAGES) / VALUES,
                "empty": lambda: _ours(0, ring, slots, EMPTY_MESSAGES),
                "pump": lambda: ours.run(answering.measure(PUMPED_MESSAGES)),
                "baseline": lambda: runner.run(baseline.measure(full, BASELINE_MESSAGES)) / VALUES,
            },
            progress,
        )
    figures = {
        "ns_per_value": statistics.median(results["ours"]) * 1e9,
        "baseline_ns_per_value": statistics.median(results["baseline"]) * 1e9,
        "us_per_message": statistics.median(results["pump"]) * 1e6,
        "decode_us_per_message": statistics.median(results["empty"]) * 1e6,
        "speedup": median_ratio(results["baseline"], results["ours"]),
    }
    return Report("decode", figures, TARGETS, MEANING)


def _ours(values: int, ring: Ring, slots: NDArray[np.uint32], messages: int) -> float:
    """Return the seconds a message that our decoder takes."""
    encoded = message(values)
    ring.drain(RING_ROWS)
    received_us = time.time_ns() // 1_000
    began = time.perf_counter()
    for _ in range(messages):
        decode_publish(encoded, ring, slots, received_us)
    took_s = time.perf_counter() - began
    if len(ring) != messages * values:
        raise RuntimeError(f"{len(ring)} rows in the ring where {messages * values} were sent")
    return took_s / messages


class Baseline:
    """asyncua's way from the response's bytes to a handler, without a network: its own classes, its own tasks."""

    def __init__(self, items: int) -> None:
        client = Client("opc.tcp://127.0.0.1:1")
        session: Any = client.uaclient.session
        self._subscription = Subscription(session, ua.CreateSubscriptionParameters(), self)
        for handle in range(items):
            item = SubscriptionItemData()
            item.client_handle = handle
            item.node = client.get_node(f"ns=2;i={handle}")
            self._subscription._monitored_items[handle] = item
        self._last: tuple[Any, Any, Any] = (None, None, None)
        self._handled = 0
        self._all_handled = asyncio.Event()
        self._wanted = items

    def datachange_notification(self, node: Any, val: Any, data: Any) -> None:
        """Do the least that a handler does: keep the node, the value and its time."""
        self._last = (node, val, data.monitored_item.Value.SourceTimestamp)
        self._handled += 1
        if self._handled == self._wanted:
            self._all_handled.set()

    async def measure(self, encoded: bytes, messages: int) -> float:
        """Return the seconds a message, from its bytes to its last handler's end."""
        began = time.perf_counter()
        for _ in range(messages):
            self._handled = 0
            self._all_handled.clear()
            response = struct_from_binary(ua.PublishResponse, Buffer(encoded))
            await self._subscription.publish_callback(response.Parameters)
            await self._all_handled.wait()
        return (time.perf_counter() - began) / messages
