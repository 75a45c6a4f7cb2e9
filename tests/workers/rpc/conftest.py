"""A front over a master with several tenants, on each kind of server; `acme` has readings of every sort."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import psycopg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from psycopg.conninfo import conninfo_to_dict

from engine import catalog, database
from engine.migrations import Which, migrate_database
from engine.readings import Batch, Kind
from engine.settings import Settings
from tests.end_to_end.engine_process import free_port
from tests.engine.commits import put_readings
from tests.servers.databases import (
    MasterAndTenant,
    Server,
    migrated_master_and_tenant,
    run,
    temporary_database,
)
from tests.workers.rpc.front_process import RunningFront, running_front

START_US = 1_760_000_000_000_000
STEP_US = 1_000
ROWS = 25_000
ACME = (("x-tenant", "acme"),)
END_US = START_US + ROWS * STEP_US


@dataclass(frozen=True, slots=True)
class World:
    """`acme` has two wells with five tags each, `zenith` none yet, `closed` is disabled; `stored` is all of acme's."""

    databases: MasterAndTenant
    wells: tuple[UUID, ...]
    tags: tuple[int, ...]
    stored: Batch


def settings_for(master_dsn: str, **changes: Any) -> Settings:
    """Return settings for a front on a free port."""
    settings = Settings(database_url=master_dsn, grpc_port=free_port(), catalog_refresh_s=0.1)
    return replace(settings, **changes)


@pytest.fixture(scope="module")
def world(any_server: Server) -> Iterator[World]:
    """The databases, filled once for a module."""
    with migrated_master_and_tenant(any_server) as databases, temporary_database(any_server.dsn) as zenith:
        run(migrate_database(zenith, Which.TENANT))
        with psycopg.connect(databases.master_dsn) as master:
            for slug, status, name in (
                ("zenith", "active", conninfo_to_dict(zenith)["dbname"]),
                ("closed", "disabled", "never_asked"),
            ):
                master.execute(
                    "insert into tenants (slug, name, database_name, status) values (%s, %s, %s, %s)",
                    [slug, slug, name, status],
                )
        yield run(_filled(databases))


async def _filled(databases: MasterAndTenant) -> World:
    connection = await database.connect(databases.tenant_dsn, application="test")
    async with connection:
        await catalog.seed(connection, uuid4(), "opc.tcp://127.0.0.1:4840")
        tags = await catalog.list_tags(connection)
    batch = readings_of_every_sort([tag.tag_id for tag in tags])
    put_readings(databases.tenant_dsn, batch)
    wells = tuple(dict.fromkeys(tag.well_id for tag in tags))
    return World(databases, wells, tuple(tag.tag_id for tag in tags), batch)


def readings_of_every_sort(tag_ids: list[int]) -> Batch:
    """Return ROWS readings in the order of (ts, tag_id): numbers, NaN, infinities, nulls, texts, every quality."""
    row = np.arange(ROWS)
    random = np.random.default_rng(7)
    value = random.normal(size=ROWS)
    value[::7], value[1::97], value[2::97] = np.nan, np.inf, -np.inf
    kind = np.full(ROWS, Kind.NUMBER, dtype=np.uint8)
    kind[5::11], kind[3::13], kind[4::101] = Kind.NULL, Kind.TEXT, Kind.NUMBER | Kind.TEXT
    status = np.array([0, 0x40920000, 0x80310000, 0xC0000000], dtype=np.uint32)[row % 4]
    return Batch(
        ts_us=START_US + row // len(tag_ids) * STEP_US,
        tag_id=np.array(tag_ids, dtype=np.int32)[row % len(tag_ids)],
        status=status,
        value=np.where(kind & Kind.NUMBER, value, 0.0),
        kind=kind,
        texts={int(at): f"Öl läuft {at} ⛽" if at % 2 else "" for at in np.flatnonzero(kind & Kind.TEXT)},
    )


@pytest.fixture(scope="module")
def front(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFront]:
    """A serving front over the world."""
    folder: Path = tmp_path_factory.mktemp("front")
    with running_front(settings_for(world.databases.master_dsn), folder) as running:
        running.wait_serving()
        yield running


def moment(us: int) -> Timestamp:
    return Timestamp(seconds=us // 1_000_000, nanos=us % 1_000_000 * 1_000)


def joined(batches: list[Batch]) -> Batch:
    texts: dict[int, str] = {}
    rows = 0
    for batch in batches:
        texts |= {rows + row: text for row, text in batch.texts.items()}
        rows += len(batch)
    return Batch(
        ts_us=np.concatenate([batch.ts_us for batch in batches]),
        tag_id=np.concatenate([batch.tag_id for batch in batches]),
        status=np.concatenate([batch.status for batch in batches]),
        value=np.concatenate([batch.value for batch in batches]),
        kind=np.concatenate([batch.kind for batch in batches]),
        texts=texts,
    )


def assert_same(found: Batch, expected: Batch) -> None:
    for column in ("ts_us", "tag_id", "status", "kind"):
        np.testing.assert_array_equal(getattr(found, column), getattr(expected, column), err_msg=column)
    number = (expected.kind & Kind.NUMBER) != 0
    np.testing.assert_array_equal(found.value[number], expected.value[number])
    assert found.texts == expected.texts
