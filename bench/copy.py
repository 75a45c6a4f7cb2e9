"""Claim `copy`: the engine's way into the database, against the limit of COPY and against the earlier service's way.

For each storage mode that the server has, in one run, on a database that the migrations made:

- engine: `Store.commit` with two commits on their way, of batches as the committer makes them when readings wait:
  frames of one second in the order of arrival. Join, screen, sort, encode, COPY, lock and move the stream's mark,
  note the changed minutes, commit in order.
- preencoded: rows like these, sorted and encoded before the clock starts, sent over as many connections to the same
  table. What is left to the engine is its own work, its marks and its event loop.
- unnest: the earlier service's INSERT ... SELECT FROM unnest(...) of 15 000 rows over one connection into its table
  with its two indexes, a hypertable where the engine's is in one, by a Python client: from lists of Python objects.

And on no server: what sorting and encoding costs, beside numpy.

1 000 tags, a value of each a second, one in a hundred overtaken by the next. A mode's figures are those of the largest
batches that the committer makes in it; the ratios for smaller ones stand beside them. All take turns within a round;
ratios are made within a round, and are the median of all rounds.

Without --dsn and SCADA_TEST_DATABASE_URL, a server is found as the tests find it: TimescaleDB, else the embedded
PostgreSQL. The user has to be a superuser: for the plain mode, he becomes a role that may not make extensions.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial

import psycopg

from bench import copy_sorting
from bench.copy_baselines import Preencoded, Unnest
from bench.copy_databases import database_in, modes_of
from bench.copy_engine import Engine
from bench.copy_feed import TAGS, Feed
from bench.report import Progress, Report, Target, interleaved, median_ratio
from engine.pipeline.batches import BATCH_MOST_ROWS, COLUMNSTORE_MOST_ROWS
from engine.readings import Batch
from engine.store import StorageMode
from tests.servers.debian_root import ServerMissing
from tests.servers.embedded_postgres import embedded_postgres
from tests.servers.timescale import timescale

# Rows of a batch, and how many batches of them a round has; the largest is the mode's own.
BATCHES = {
    StorageMode.COLUMNSTORE: {10_000: 12, BATCH_MOST_ROWS: 6, COLUMNSTORE_MOST_ROWS: 6},
    StorageMode.HYPERTABLE: {10_000: 6, BATCH_MOST_ROWS: 8},
    StorageMode.PLAIN: {10_000: 6, BATCH_MOST_ROWS: 8},
}
UNNEST_BATCH_ROWS = 15_000
UNNEST_BATCHES = 2
ROUNDS = 5
SORTING_ROUNDS = 25

# Over the earlier service's way. There is none for the plain mode, which is not for production.
UNNEST_LEAST = {StorageMode.COLUMNSTORE: 20.0, StorageMode.HYPERTABLE: 6.0}
PREENCODED_LEAST = 0.9
SORT_ENCODE_MOST_NS = 60.0

MEANING = {
    "rows_per_s": "Store.commit, two on their way, largest batches",
    "preencoded_rows_per_s": "ready bytes over two connections, same table",
    "unnest_rows_per_s": "INSERT ... unnest by a Python client, its table",
    "unnest_ready_rows_per_s": "the same, of its arrays in binary form: the server alone",
    "vs_preencoded": "rows_per_s / preencoded_rows_per_s",
    "vs_unnest": "rows_per_s / unnest_rows_per_s",
}
SORTING_MEANING = {
    "sort_encode_ns_per_row": "join, screen, sort, encode; processor time",
    "sort_encode_numpy_ns_per_row": "join, lexsort, encode whole columns in numpy",
    "sort_encode_vs_numpy": "how many times as fast as numpy",
}


def run(progress: Progress, *, dsn: str | None = None) -> Report:
    """Measure the claim on the server of `dsn`, or on one that is found."""
    figures = copy_sorting.measure(SORTING_ROUNDS, progress)
    figures["sort_encode_vs_numpy"] = (
        figures["sort_encode_numpy_ns_per_row"] / figures["sort_encode_ns_per_row"]
    )
    meaning = dict(SORTING_MEANING)
    targets = [Target("sort_encode_ns_per_row", "<=", SORT_ENCODE_MOST_NS, timed=True)]
    with ExitStack() as stack:
        server, notes = _server(stack, dsn or os.environ.get("SCADA_TEST_DATABASE_URL"))
        modes = modes_of(server)
        for place, mode in enumerate(modes):

            def advance(done: int, total: int, before: int = place) -> None:
                progress(before * total + done, len(modes) * total)

            with database_in(server, mode) as database:
                found = _measure(database, mode, advance)
            figures |= {f"{mode}_{name}": value for name, value in found.items()}
            meaning |= {f"{mode}_{name}": text for name, text in MEANING.items()}
            meaning |= {f"{mode}_vs_preencoded_{rows}": f"with batches of {rows:,}" for rows in BATCHES[mode]}
            # Two backends and we share the processors: where there are two, what our work costs depends on the machine.
            targets.append(Target(f"{mode}_vs_preencoded", ">=", PREENCODED_LEAST, timed=True))
            if mode in UNNEST_LEAST:
                targets.append(Target(f"{mode}_vs_unnest", ">=", UNNEST_LEAST[mode]))
    return Report("copy", figures, targets, meaning, notes)


def _server(stack: ExitStack, dsn: str | None) -> tuple[str, list[str]]:
    """Return the server to measure on, and what there is to say about one that is missing."""
    if dsn is not None:
        return dsn, []
    try:
        return stack.enter_context(timescale()), []
    except ServerMissing as exc:
        return stack.enter_context(embedded_postgres()), [f"TimescaleDB is not measured: {exc}"]


def _measure(database: str, mode: StorageMode, progress: Progress) -> dict[str, float]:
    feed = Feed()
    batches = BATCHES[mode]
    server_s: list[float] = []
    with ExitStack() as stack:
        engine = stack.enter_context(closing(Engine(database)))
        preencoded = stack.enter_context(closing(Preencoded(database, mode)))
        unnest = stack.enter_context(closing(Unnest(database, mode)))

        def timed(way: Callable[[list[Batch]], float], rows: int) -> float:
            return way([feed.batch(rows) for _ in range(batches[rows])])

        def timed_unnest() -> float:
            seconds, of_server_s = unnest.measure(
                [feed.batch(UNNEST_BATCH_ROWS) for _ in range(UNNEST_BATCHES)]
            )
            server_s.append(of_server_s)
            return seconds

        ways = {"engine": engine.measure, "preencoded": preencoded.measure}
        measures: dict[str, Callable[[], float]] = {
            f"{name}_{rows}": partial(timed, way, rows) for rows in batches for name, way in ways.items()
        }
        measures["unnest"] = timed_unnest
        for warm_up in measures.values():
            warm_up()
        server_s.clear()
        seconds = interleaved(ROUNDS, measures, progress)
    _check(database, (ROUNDS + 1) * len(ways) * sum(rows * count for rows, count in batches.items()))
    return _figures(batches, seconds, server_s)


def _check(database: str, rows: int) -> None:
    """Make sure that what was timed was done."""
    with psycopg.connect(database) as connection:
        found = connection.execute("select count(*), count(distinct tag_id) from readings").fetchone()
    if found != (rows, TAGS):
        raise RuntimeError(f"(rows, tags) in readings are {found} where {(rows, TAGS)} were sent")


def _figures(
    batches: dict[int, int], seconds: dict[str, list[float]], server_s: list[float]
) -> dict[str, float]:
    """Return the figures of one mode from the seconds of each measure by round."""
    largest = max(batches)
    rates = {
        name: [batches[largest] * largest / each for each in seconds[f"{name}_{largest}"]]
        for name in ("engine", "preencoded")
    }
    unnest_rows = UNNEST_BATCHES * UNNEST_BATCH_ROWS
    rates["unnest"] = [unnest_rows / each for each in seconds["unnest"]]
    by_size = {
        f"vs_preencoded_{rows}": median_ratio(seconds[f"preencoded_{rows}"], seconds[f"engine_{rows}"])
        for rows in batches
    }
    return {
        "rows_per_s": statistics.median(rates["engine"]),
        "preencoded_rows_per_s": statistics.median(rates["preencoded"]),
        "unnest_rows_per_s": statistics.median(rates["unnest"]),
        "unnest_ready_rows_per_s": statistics.median(unnest_rows / each for each in server_s),
        "vs_preencoded": median_ratio(rates["engine"], rates["preencoded"]),
        **by_size,
        "vs_unnest": median_ratio(rates["engine"], rates["unnest"]),
    }
