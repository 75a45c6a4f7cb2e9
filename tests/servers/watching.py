"""What an ordinary OPC UA client sees of a test server: the reference that the tests of the servers use."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from asyncua import ua
from asyncua.client.client import Client
from asyncua.common.node import Node
from asyncua.common.subscription import DataChangeNotif

WATCH_DEADLINE_S = 20.0


@dataclass(frozen=True, slots=True)
class Seen:
    """One value as the client got it; `value` in plain Python, as fixed_values.py writes it; None is null."""

    value: object
    data_type: str
    status: int
    source_time: datetime
    # The client reads this one wrong when the server sends source picoseconds.
    server_time: datetime | None
    source_picoseconds: int


Log = dict[str, list[Seen]]


@asynccontextmanager
async def connected(endpoint: str) -> AsyncIterator[Client]:
    """Yield a connected client."""
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)
    async with Client(endpoint, timeout=10) as client:
        yield client


async def read(endpoint: str, node_ids: Sequence[str]) -> list[Seen]:
    """Read each node's value once."""
    async with connected(endpoint) as client:
        nodes = [client.get_node(node_id) for node_id in node_ids]
        return [_seen(await node.read_data_value(raise_on_bad_status=False)) for node in nodes]


async def watch(
    endpoint: str, node_ids: Sequence[str], until: Callable[[Log], bool], *, sampling_ms: float = 50.0
) -> Log:
    """Subscribe to the nodes and return all notified values, by node id, as soon as `until` holds for them."""
    collector = _Collector(until)
    async with connected(endpoint) as client:
        subscription = await client.create_subscription(50, collector, queue_maxsize=0)
        nodes = [client.get_node(node_id) for node_id in node_ids]
        await subscription.subscribe_data_change(
            nodes, queuesize=1_000, sampling_interval=ua.Double(sampling_ms)
        )
        async with asyncio.timeout(WATCH_DEADLINE_S):
            await collector.enough.wait()
        await subscription.delete()
    return dict(collector.log)


def each_has(values: int, *, nodes: int) -> Callable[[Log], bool]:
    """Return the condition that all of `nodes` nodes were notified at least `values` times."""
    return lambda log: len(log) == nodes and all(len(seen) >= values for seen in log.values())


class _Collector:
    def __init__(self, until: Callable[[Log], bool]) -> None:
        self.log: defaultdict[str, list[Seen]] = defaultdict(list)
        self.enough = asyncio.Event()
        self._until = until

    def datachange_notification(self, node: Node, _value: object, data: DataChangeNotif) -> None:
        self.log[node.nodeid.to_string()].append(_seen(data.monitored_item.Value))
        if self._until(self.log):
            self.enough.set()


def _seen(found: ua.DataValue) -> Seen:
    variant = found.Value or ua.Variant()
    return Seen(
        value=_plain(variant.Value),
        data_type=variant.VariantType.name,
        status=found.StatusCode.value if found.StatusCode else 0,
        source_time=found.SourceTimestamp or datetime.min.replace(tzinfo=UTC),
        server_time=found.ServerTimestamp,
        source_picoseconds=10 * (found.SourcePicoseconds or 0),
    )


def _plain(value: object) -> object:
    match value:
        case ua.StatusCode():
            return value.value
        case ua.LocalizedText():
            return value.Text
        case ua.NodeId():
            return value.to_string()
        case _:
            return value
