"""What claim `copy` compares the engine with."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import repeat
from queue import SimpleQueue
from typing import Any

import psycopg
from psycopg import pq
from psycopg.adapt import PyFormat, Transformer

from bench.copy_feed import TAGS, sorted_by_tag
from engine._fastpath import encode_copy
from engine.readings import READING_COLUMNS, Batch
from engine.store import StorageMode

# The engine has two commits on their way.
CONNECTIONS = 2
_BEGIN = "begin; set local synchronous_commit = on"
_DIRECT_COMPRESS = (
    "; set local timescaledb.enable_direct_compress_copy = on"
    "; set local timescaledb.enable_direct_compress_copy_client_sorted = on"
)


class Preencoded:
    """Ready COPY bytes, a transaction each, over as many connections as the engine uses."""

    def __init__(self, dsn: str, mode: StorageMode) -> None:
        self._connections = [_connected(dsn) for _ in range(CONNECTIONS)]
        self._threads = ThreadPoolExecutor(CONNECTIONS)
        self._begin = _BEGIN + _DIRECT_COMPRESS if mode is StorageMode.COLUMNSTORE else _BEGIN
        self._copy = f"copy readings ({', '.join(READING_COLUMNS)}) from stdin (format binary)"

    def measure(self, batches: list[Batch]) -> float:
        """Return the seconds to store the batches; encoding them is not counted."""
        ready: SimpleQueue[bytearray | None] = SimpleQueue()
        for each in map(sorted_by_tag, batches):
            ready.put(encode_copy(each.ts_us, each.tag_id, each.status, each.value, each.kind, {}))
        for _ in self._connections:
            ready.put(None)
        began = time.perf_counter()
        list(self._threads.map(self._send, self._connections, repeat(ready)))
        return time.perf_counter() - began

    def _send(self, connection: psycopg.Connection, ready: SimpleQueue[bytearray | None]) -> None:
        while (encoded := ready.get()) is not None:
            connection.execute(self._begin)
            with connection.cursor().copy(self._copy) as copy:
                copy.write(memoryview(encoded))
            connection.execute("commit")

    def close(self) -> None:
        """Close the connections."""
        self._threads.shutdown()
        for connection in self._connections:
            connection.close()


class Unnest:
    """The earlier service's table with its indexes, and its INSERT ... SELECT FROM unnest(...), a transaction each."""

    _INSERT = (
        b"insert into seed_readings (timestamp, well_id, tag_node_id, value, quality)"
        b" select * from unnest($1::timestamptz[], $2::uuid[], $3::text[], $4::float8[], $5::text[])"
    )

    def __init__(self, dsn: str, mode: StorageMode) -> None:
        self._connection = _connected(dsn)
        self._connection.execute(
            """
            create table seed_readings (
                timestamp timestamptz not null, well_id uuid not null, tag_node_id text not null,
                value double precision not null, quality text not null
            )
            """
        )
        if mode is not StorageMode.PLAIN:
            self._connection.execute(
                "select create_hypertable('seed_readings', 'timestamp', chunk_time_interval => interval '24 hours',"
                " create_default_indexes => false)"
            )
        self._connection.execute("create index on seed_readings (well_id, timestamp desc)")
        self._connection.execute("create index on seed_readings (tag_node_id, timestamp desc)")
        # Five tags a well, as in the earlier service's own data.
        self._wells = [uuid.UUID(int=1 + tag // 5) for tag in range(TAGS)]
        self._nodes = [f"ns=2;s=Well{tag // 5:04}.Tag{tag % 5}" for tag in range(TAGS)]

    def measure(self, batches: list[Batch]) -> tuple[float, float]:
        """Return the seconds to store the batches from lists of Python objects, and those of the server alone."""
        seconds = server_s = 0.0
        for columns in map(self._columns, batches):
            began = time.perf_counter()
            types, values = self._arrays(columns)
            sent = time.perf_counter()
            self._connection.execute(_BEGIN)
            result = self._connection.pgconn.exec_params(self._INSERT, values, types, [1] * len(values))
            if result.status != pq.ExecStatus.COMMAND_OK:
                raise RuntimeError(f"INSERT ... unnest failed: {result.get_error_message()}")
            self._connection.execute("commit")
            done = time.perf_counter()
            seconds += done - began
            server_s += done - sent
        return seconds, server_s

    def _columns(self, batch: Batch) -> list[list[Any]]:
        tags = (batch.tag_id - 1).tolist()
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        return [
            [epoch + timedelta(microseconds=ts) for ts in batch.ts_us.tolist()],
            [self._wells[tag] for tag in tags],
            [self._nodes[tag] for tag in tags],
            batch.value.tolist(),
            ["Good"] * len(batch),
        ]

    def _arrays(self, columns: list[list[Any]]) -> tuple[list[int], list[Any]]:
        """Return the types and the binary forms of the five arrays."""
        transformer = Transformer(self._connection)
        dumpers = [transformer.get_dumper(column, PyFormat.BINARY) for column in columns]
        values = [dumper.dump(column) for dumper, column in zip(dumpers, columns, strict=True)]
        return [dumper.oid for dumper in dumpers], values

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _connected(dsn: str) -> psycopg.Connection:
    return psycopg.connect(dsn, autocommit=True, prepare_threshold=None)
