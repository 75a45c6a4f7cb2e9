"""One cell of the conformance matrix: a connection to one maker's server in one mode, and the rows that came of it."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from engine.catalog.records import ItemSettings, Tag
from engine.catalog.tag_set import TagSet
from engine.continuity import Continuity
from engine.enumerations import Enumerations
from engine.readings import Kind
from engine.scaling import TagTable
from engine.settings import OpcuaSettings
from tests.workers.opcua.tenant import Tenant, connection, until

if TYPE_CHECKING:
    from tests.servers.opcua_server import OpcuaServer, ServedVariable
    from workers.opcua.security.pki import Pki

MODES = ("None", "Sign", "SignAndEncrypt")
SETTINGS = replace(
    OpcuaSettings(),
    publishing_interval_ms=50,
    sampling_interval_ms=20,
    queue_size=100,
    keep_alive_count=10,
    lifetime_count=3_000,
    request_timeout_s=5.0,
    backoff_first_s=0.05,
    backoff_most_s=0.3,
)


@dataclass(frozen=True, slots=True)
class Row:
    """One reading; None where a column is null."""

    ts_us: int
    value: float | None
    text: str | None
    status: int


class Cell:
    """A running connection, and its readings by node id in the order in which they came."""

    def __init__(
        self,
        tenant: Tenant,
        server: OpcuaServer,
        node_ids: tuple[str, ...],
        *,
        task: asyncio.Task[None],
        continuity: Continuity,
        enumerations: Enumerations,
    ) -> None:
        self.tenant = tenant
        self._task = task
        self._continuity = continuity
        self._enumerations = enumerations
        self._tags = TagTable()
        for place in range(len(node_ids)):
            self._tags.slot(place + 1)
        self.server = server
        self.node_ids = node_ids
        self.rows: defaultdict[str, list[Row]] = defaultdict(list)

    @classmethod
    def connect(
        cls,
        tenant: Tenant,
        server: OpcuaServer,
        *node_ids: str,
        settings: OpcuaSettings = SETTINGS,
        endpoint: str | None = None,
        pki: Pki | None = None,
        items: Mapping[str, ItemSettings] | None = None,
        types: Mapping[str, str] | None = None,
        **changes: Any,
    ) -> Cell:
        """Connect with a tag for each node id.

        `items` are settings and `types` data types of tags that differ, `changes` fields of the connection.
        """
        wanted = connection(endpoint or server.endpoint, *node_ids, **changes)
        wanted = replace(wanted, tags=tags_of(node_ids, items or {}, types or {}))
        continuity, enumerations = Continuity(tenant.ring), Enumerations()
        task = tenant.connect(wanted, settings, pki=pki, continuity=continuity, learn=enumerations.learn)
        return cls(tenant, server, node_ids, task=task, continuity=continuity, enumerations=enumerations)

    async def stop(self) -> None:
        """End the connection."""
        self._task.cancel()
        await asyncio.wait([self._task], timeout=10)

    def drain(self) -> None:
        """Take what has arrived out of the ring, as a tenant's pipeline does."""
        raw = self.tenant.sink.drain()
        self._enumerations.name(raw)
        batch = self._continuity.take(raw.slot, self._tags.scale(raw)).batch
        for place, tag_id in enumerate(batch.tag_id):
            number = bool(batch.kind[place] & Kind.NUMBER)
            self.rows[self.node_ids[tag_id - 1]].append(
                Row(
                    ts_us=int(batch.ts_us[place]),
                    value=float(batch.value[place]) if number else None,
                    text=batch.texts.get(place),
                    status=int(batch.status[place]),
                )
            )

    async def until(self, condition: Callable[[Cell], object], *, within_s: float = 15.0) -> None:
        """Drain until the condition holds; fail with what the connection says when it does not in time."""

        def holds() -> object:
            self.drain()
            return condition(self)

        try:
            await until(holds, within_s=within_s)
        except TimeoutError as exc:
            seen = {node: len(rows) for node, rows in self.rows.items()}
            reports = self.tenant.sink.reports
            raise AssertionError(f"not within {within_s} s; last report {reports[-1:]}; rows {seen}") from exc

    async def write(self, name: str, *values: float) -> None:
        """Let the server write a variable of its folder Changing: each value when the one before has come."""
        for value in values:
            self.server.write(name, value)
            await self._until_newest(f"ns=1;s={name}", value)

    async def _until_newest(self, node_id: str, value: float) -> None:
        await self.until(lambda _: self.rows[node_id] and self.rows[node_id][-1].value == value)

    def values(self, node_id: str) -> list[float | None]:
        """Return a node's numbers in the order in which they came."""
        return [row.value for row in self.rows[node_id]]

    def has(self, count: int, *node_ids: str) -> bool:
        """Return whether each of the nodes (of all, if none is named) has so many rows."""
        return all(len(self.rows[node_id]) >= count for node_id in node_ids or self.node_ids)


def tags_of(node_ids: tuple[str, ...], items: Mapping[str, ItemSettings], types: Mapping[str, str]) -> TagSet:
    this = uuid4()
    return TagSet.of(
        Tag(
            tag_id=place + 1,
            id=this,
            connection_id=this,
            well_id=this,
            tag_name="T",
            opc_node_id=node,
            data_type=types.get(node, "DOUBLE"),
            unit=None,
            scaling_factor=1.0,
            offset=0.0,
            settings=items.get(node, ItemSettings()),
        )
        for place, node in enumerate(node_ids)
    )


def security(mode: str) -> dict[str, Any]:
    """Return a connection's fields for a mode, with the strongest policy that the server has."""
    return {"security_mode": mode, "security_policy": "None" if mode == "None" else "Auto"}


def steps_are_whole(values: list[float | None]) -> bool:
    """Return whether a counter came without a gap and without a repetition."""
    numbers = [value for value in values if value is not None]
    return len(numbers) == len(values) and all(after == before + 1 for before, after in pairwise(numbers))


def expected(variable: ServedVariable) -> tuple[float | None, str | None]:
    """Return the number and the text that a fixed variable must become; texts of arrays as compact JSON."""
    value = variable.value
    if isinstance(value, datetime):
        return value.timestamp(), None
    if isinstance(value, int) and abs(value) > 2**53:
        return float(value), str(value)
    if isinstance(value, bool | int | float):
        return float(value), None
    if isinstance(value, bytes):
        return None, "AQL+/w=="
    if isinstance(value, list):
        return None, json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return None, str(value)
