"""What claim `copy` compares the engine with, and the readings that all of them store."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import pq
from psycopg.adapt import PyFormat, Transformer

from engine._fastpath import encode_copy
from engine.frames import Frame, sequence_of
from engine.gaps import GapChanges
from engine.readings import READING_COLUMNS, Batch, Kind
from engine.store import Claim, Commit, StorageMode, Store

TAGS = 1_000
_FIRST_US = 1_750_000_000_000_000
_BEGIN = "begin; set local synchronous_commit = on"
_DIRECT_COMPRESS = (
    "; set local timescaledb.enable_direct_compress_copy = on"
    "; set local timescaledb.enable_direct_compress_copy_client_sorted = on"
)


class Feed:
    """Readings as they arrive: each second one value of each tag; later ones follow on earlier ones."""

    def __init__(self) -> None:
        self._row = 0
        self._random = np.random.default_rng(seed=1)

    def batch(self, rows: int) -> Batch:
        """Return the next rows, in the order of arrival."""
        number = np.arange(self._row, self._row + rows)
        self._row += rows
        return Batch(
            ts_us=_FIRST_US + number // TAGS * 1_000_000,
            tag_id=(number % TAGS + 1).astype(np.int32),
            status=np.zeros(rows, np.uint32),
            value=self._random.normal(100, 10, rows),
            kind=np.full(rows, Kind.NUMBER, np.uint8),
        )


def sorted_by_tag(batch: Batch) -> Batch:
    """Return the batch in the order in which the engine sends it: by tag_id, then ts."""
    order = np.lexsort((batch.ts_us, batch.tag_id))
    return Batch(
        batch.ts_us[order], batch.tag_id[order], batch.status[order], batch.value[order], batch.kind[order]
    )


class Stream:
    """A stream's owner: makes frames of batches, and commits them behind each other."""

    def __init__(self, store: Store, stream: UUID, claim: Claim) -> None:
        """Use `claimed`."""
        self._store = store
        self._stream = stream
        self._epoch = claim.epoch
        (self._lane,) = claim.lanes
        self._count = 0

    @classmethod
    async def claimed(cls, store: Store) -> Stream:
        """Become the owner of a new stream."""
        stream = uuid.uuid4()
        return cls(store, stream, await store.claim(stream, 1))

    def frames(self, batch: Batch) -> list[Frame]:
        """Return a batch as the frames that it would have come in, one a second."""
        return [self._frame(batch.part(first, first + TAGS)) for first in range(0, len(batch), TAGS)]

    def _frame(self, batch: Batch) -> Frame:
        self._count += 1
        sequence = sequence_of(self._epoch, self._count)
        return Frame(sequence, sequence - 1, int(batch.ts_us[0]), batch, GapChanges(), (), nbytes=0)

    async def commit(self, frames: list[Frame]) -> None:
        """Commit frames as one batch."""
        done = await self._store.commit(
            Commit(self._stream, self._epoch, self._lane, frames, frames[-1].sequence)
        )
        (self._lane,) = done.lanes


class Preencoded:
    """Ready COPY bytes over one connection, a transaction each."""

    def __init__(self, dsn: str, mode: StorageMode) -> None:
        self._connection = psycopg.connect(dsn, autocommit=True, prepare_threshold=None)
        self._begin = _BEGIN + _DIRECT_COMPRESS if mode is StorageMode.COLUMNSTORE else _BEGIN
        self._copy = f"copy readings ({', '.join(READING_COLUMNS)}) from stdin (format binary)"

    def measure(self, batches: list[Batch]) -> float:
        """Return the seconds to store the batches; encoding them is not counted."""
        ready = [
            encode_copy(each.ts_us, each.tag_id, each.status, each.value, each.kind, {})
            for each in map(sorted_by_tag, batches)
        ]
        began = time.perf_counter()
        for encoded in ready:
            self._connection.execute(self._begin)
            with self._connection.cursor().copy(self._copy) as copy:
                copy.write(memoryview(encoded))
            self._connection.execute("commit")
        return time.perf_counter() - began

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class Unnest:
    """The earlier service's table with its indexes, and its INSERT ... SELECT FROM unnest(...), a transaction each."""

    _INSERT = (
        b"insert into seed_readings (timestamp, well_id, tag_node_id, value, quality)"
        b" select * from unnest($1::timestamptz[], $2::uuid[], $3::text[], $4::float8[], $5::text[])"
    )

    def __init__(self, dsn: str, mode: StorageMode) -> None:
        self._connection = psycopg.connect(dsn, autocommit=True, prepare_threshold=None)
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

    def measure(self, batches: list[Batch]) -> float:
        """Return the seconds to store the batches; making their arrays is not counted."""
        ready = [self._arrays(batch) for batch in batches]
        began = time.perf_counter()
        for types, values in ready:
            self._connection.execute(_BEGIN)
            result = self._connection.pgconn.exec_params(self._INSERT, values, types, [1] * len(values))
            if result.status != pq.ExecStatus.COMMAND_OK:
                raise RuntimeError(f"INSERT ... unnest failed: {result.get_error_message()}")
            self._connection.execute("commit")
        return time.perf_counter() - began

    def _arrays(self, batch: Batch) -> tuple[list[int], list[Any]]:
        """Return the types and the binary forms of the five arrays."""
        tags: NDArray[np.int32] = batch.tag_id - 1
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        columns: list[list[Any]] = [
            [epoch + timedelta(microseconds=int(ts)) for ts in batch.ts_us],
            [self._wells[tag] for tag in tags],
            [self._nodes[tag] for tag in tags],
            batch.value.tolist(),
            ["Good"] * len(batch),
        ]
        transformer = Transformer(self._connection)
        dumpers = [transformer.get_dumper(column, PyFormat.BINARY) for column in columns]
        values = [dumper.dump(column) for dumper, column in zip(dumpers, columns, strict=True)]
        return [dumper.oid for dumper in dumpers], values

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
