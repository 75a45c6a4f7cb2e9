"""Claim `copy`: the engine's way into the database, against the limit of COPY and against the earlier service's way.

For each storage mode that the server has, in one run, on one database that the migrations made:

- engine: `Store.commit` of batches as the committer hands them over, each of frames of one second in the order of
  arrival: join, screen, sort, encode; lock the stream's mark, COPY, move the mark, commit.
- preencoded: the same rows, sorted and encoded before the clock starts, sent over one plain psycopg connection to the
  same table in the same kind of transaction. What is left to the engine is its own work and its event loop.
- unnest: the earlier service's INSERT ... SELECT FROM unnest(...) with batches of 15 000 rows into its table with its
  two indexes, as a hypertable where there is TimescaleDB. Its arrays are in binary form before the clock starts.

1 000 tags, one value each a second. In each round, engine and preencoded send half of their rows in batches of 10 000
and half in batches of 50 000. Ratios are made within a round, and are the median of all rounds.

Without --dsn and SCADA_TEST_DATABASE_URL, servers are found as the tests find them: TimescaleDB, and the embedded
PostgreSQL for the plain mode.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial

import psycopg
import uvloop

from bench.copy_baselines import TAGS, Feed, Preencoded, Stream, Unnest
from bench.report import Progress, Report, Target, interleaved, median_ratio
from engine.database_pool import DatabasePool
from engine.migrations import Which, migrate_database
from engine.readings import Batch
from engine.store import StorageMode, Store
from tests.servers.databases import temporary_database
from tests.servers.debian_root import ServerMissing
from tests.servers.embedded_postgres import embedded_postgres
from tests.servers.timescale import timescale

BATCH_ROWS = (10_000, 50_000)
ROWS = 50_000  # of each batch size in a round
UNNEST_BATCH_ROWS = 15_000
UNNEST_BATCHES = 2
ROUNDS = 15

MEANING = {
    "rows_per_s": "Store.commit, batches of 10,000 and of 50,000 rows",
    "preencoded_rows_per_s": "ready bytes over one connection, same table",
    "unnest_rows_per_s": "INSERT ... unnest, batches of 15,000, its table",
    "vs_preencoded": "rows_per_s / preencoded_rows_per_s",
    "vs_preencoded_10000": "the same for batches of 10,000 alone",
    "vs_preencoded_50000": "the same for batches of 50,000 alone",
    "vs_unnest": "rows_per_s / unnest_rows_per_s",
}


def run(progress: Progress, *, dsn: str | None = None) -> Report:
    """Measure the claim on the server of `dsn`, or on those that are found."""
    figures: dict[str, float] = {}
    modes: list[StorageMode] = []
    with ExitStack() as stack:
        servers, notes = _servers(stack, dsn or os.environ.get("SCADA_TEST_DATABASE_URL"))
        for place, server in enumerate(servers):

            def advance(done: int, total: int, before: int = place) -> None:
                progress(before * total + done, len(servers) * total)

            with temporary_database(server, "bench") as database, asyncio.Runner() as migrating:
                migrating.run(migrate_database(database, Which.TENANT))
                mode, found = _measure(database, advance)
            modes.append(mode)
            figures |= {f"{mode}_{name}": value for name, value in found.items()}
    targets = [Target(f"{mode}_vs_preencoded", ">=", 0.8) for mode in modes]
    meaning = {f"{mode}_{name}": text for mode in modes for name, text in MEANING.items()}
    return Report("copy", figures, targets, meaning, notes)


def _servers(stack: ExitStack, dsn: str | None) -> tuple[list[str], list[str]]:
    """Return the servers to measure on, and what there is to say about those that are missing."""
    if dsn is not None:
        return [dsn], []
    found, notes = [], []
    try:
        found.append(stack.enter_context(timescale()))
    except ServerMissing as exc:
        notes.append(f"TimescaleDB is not measured: {exc}")
    found.append(stack.enter_context(embedded_postgres()))
    return found, notes


def _measure(database: str, progress: Progress) -> tuple[StorageMode, dict[str, float]]:
    feed = Feed()
    pool = DatabasePool(1, retry_most_s=0.0)
    store = Store(pool.database(database, "scada-engine bench"))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, ExitStack() as stack:
        stack.callback(lambda: runner.run(pool.close()))
        runner.run(store.check())
        mode = store.mode
        assert mode is not None
        preencoded = stack.enter_context(closing(Preencoded(database, mode)))
        unnest = stack.enter_context(closing(Unnest(database, mode)))

        stream = runner.run(Stream.claimed(store))

        async def engine(batches: list[Batch]) -> float:
            ready = [stream.frames(batch) for batch in batches]
            began = time.perf_counter()
            for frames in ready:
                await stream.commit(frames)
            return time.perf_counter() - began

        def timed(way: Callable[[list[Batch]], float], batch_rows: int, batches: int) -> float:
            return way([feed.batch(batch_rows) for _ in range(batches)])

        ways: dict[str, Callable[[list[Batch]], float]] = {
            "engine": lambda batches: runner.run(engine(batches)),
            "preencoded": preencoded.measure,
        }
        measures = {
            f"{name}_{rows}": partial(timed, way, rows, ROWS // rows)
            for rows in BATCH_ROWS
            for name, way in ways.items()
        }
        measures["unnest"] = partial(timed, unnest.measure, UNNEST_BATCH_ROWS, UNNEST_BATCHES)
        for warm_up in measures.values():
            warm_up()
        seconds = interleaved(ROUNDS, measures, progress)
    _check(database, (ROUNDS + 1) * len(BATCH_ROWS) * len(ways) * ROWS)
    return mode, _figures(seconds)


def _check(database: str, rows: int) -> None:
    """Make sure that what was timed was done."""
    with psycopg.connect(database) as connection:
        found = connection.execute("select count(*), count(distinct tag_id) from readings").fetchone()
    if found != (rows, TAGS):
        raise RuntimeError(f"(rows, tags) in readings are {found} where {(rows, TAGS)} were sent")


def _figures(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Return the figures of one mode from the seconds of each measure by round."""
    rates = {
        name: [len(BATCH_ROWS) * ROWS / sum(each) for each in zip(*by_size, strict=True)]
        for name in ("engine", "preencoded")
        for by_size in [[seconds[f"{name}_{rows}"] for rows in BATCH_ROWS]]
    }
    rates["unnest"] = [UNNEST_BATCHES * UNNEST_BATCH_ROWS / each for each in seconds["unnest"]]
    by_size = {
        f"vs_preencoded_{rows}": median_ratio(seconds[f"preencoded_{rows}"], seconds[f"engine_{rows}"])
        for rows in BATCH_ROWS
    }
    return {
        "rows_per_s": statistics.median(rates["engine"]),
        "preencoded_rows_per_s": statistics.median(rates["preencoded"]),
        "unnest_rows_per_s": statistics.median(rates["unnest"]),
        "vs_preencoded": median_ratio(rates["engine"], rates["preencoded"]),
        **by_size,
        "vs_unnest": median_ratio(rates["engine"], rates["unnest"]),
    }
