"""The server that `receive` and `subscribe` measure on: open62541 with very many counters, and tags for all of them.

Owns no measurement.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import uuid4

import psutil

from engine.catalog.connection import Connection
from engine.catalog.records import Tag
from engine.catalog.tag_set import TagSet
from engine.errors import ConfigurationError
from tests.servers.debian_root import ServerMissing
from tests.servers.opcua_server import OpcuaServer
from tests.servers.open62541 import open62541_server

RING_ROWS = 262_144  # a tenant's, by default


@contextmanager
def large_plant(variables: int, interval_ms: float) -> Iterator[OpcuaServer]:
    """Run the server; all its counters go up by one each interval. Raises ConfigurationError when it cannot be had."""
    try:
        with open62541_server(variables=variables, interval_ms=interval_ms) as server:
            yield server
    except ServerMissing as exc:
        raise ConfigurationError(str(exc)) from exc


def connection(endpoint_url: str, tags: int) -> Connection:
    """Return a connection to the server with a tag for each of its first counters."""
    this, well = uuid4(), uuid4()
    return Connection(
        id=this,
        well_id=well,
        name="bench",
        endpoint_url=endpoint_url,
        security_mode="None",
        security_policy="None",
        username=None,
        password=None,
        poll_interval_seconds=60,
        is_enabled=True,
        updated_at=datetime.now(UTC),
        tags=TagSet.of(
            Tag(number + 1, this, this, well, "", f"ns=1;s=tag.{number}", "DOUBLE", None, 1.0, 0.0)
            for number in range(tags)
        ),
    )


def cpu_s(process: psutil.Process) -> float:
    """Return the CPU time that the process has taken, in seconds."""
    times = process.cpu_times()
    return float(times.user + times.system)
