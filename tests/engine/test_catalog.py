"""The catalog on real servers: what is asked for is there afterwards, and what does not fit is named and not."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from engine import catalog
from engine.catalog import InvalidRows, NewConnection, NewTag
from engine.catalog.tenants import _create_database
from engine.database import connect, with_database
from engine.errors import ConfigurationError, DatabaseNotMigrated, InvalidInput, NotFound
from engine.migrations import Which, migrate_database
from engine.settings import Settings
from tests.engine.catalog_entries import ENDPOINT, KEY, a_connection
from tests.servers.databases import MasterAndTenant

Database = psycopg.AsyncConnection[Any]


@pytest.fixture
async def master(databases: MasterAndTenant) -> AsyncIterator[Database]:
    async with await connect(databases.master_dsn, application="test") as connection:
        yield connection


@pytest.fixture
def settings(databases: MasterAndTenant) -> Settings:
    return Settings(database_url=databases.master_dsn, secrets_key=KEY)


@pytest.fixture
async def created_slug(databases: MasterAndTenant) -> AsyncIterator[str]:
    """A slug whose database does not outlive the test."""
    slug = f"t-{os.urandom(6).hex()}"
    yield slug
    async with await connect(databases.server.dsn, application="test", autocommit=True) as server:
        await server.execute(f"drop database if exists scada_{slug.replace('-', '_')} with (force)")


async def migrate(dsn: str) -> None:
    await migrate_database(dsn, Which.TENANT)


async def rows(database: Database, query: str) -> list[Any]:
    return await (await database.execute(query)).fetchall()


# Tenants


async def test_a_tenant_gets_a_database_of_its_own_and_is_listed(
    master: Database, settings: Settings, created_slug: str
) -> None:
    added = await catalog.add_tenant(master, settings, created_slug, "Oil Co", prepare=migrate)
    listed = {tenant.slug: tenant for tenant in await catalog.list_tenants(master, settings)}
    assert listed[created_slug] == added
    assert psycopg.conninfo.conninfo_to_dict(added.dsn)["dbname"] == f"scada_{created_slug.replace('-', '_')}"
    async with await connect(added.dsn, application="test") as database:
        assert await catalog.load_connections(database, added.id) == []


async def test_a_tenant_that_a_crash_left_half_made_can_be_added_again(
    master: Database, settings: Settings, created_slug: str
) -> None:
    async def migrate_and_crash(dsn: str) -> None:
        await migrate(dsn)
        raise KeyError("a crash")

    with pytest.raises(KeyError):
        await catalog.add_tenant(master, settings, created_slug, "Oil Co", prepare=migrate_and_crash)
    assert created_slug not in [tenant.slug for tenant in await catalog.list_tenants(master, settings)]
    await catalog.add_tenant(master, settings, created_slug, "Oil Co", prepare=migrate)
    assert created_slug in [tenant.slug for tenant in await catalog.list_tenants(master, settings)]


async def test_a_tenant_whose_database_was_created_but_not_marked_can_be_added_again(
    master: Database, databases: MasterAndTenant, settings: Settings, created_slug: str
) -> None:
    async with await connect(databases.server.dsn, application="test", autocommit=True) as server:
        await server.execute(f"create database scada_{created_slug.replace('-', '_')}")
    await catalog.add_tenant(master, settings, created_slug, "Oil Co", prepare=migrate)


async def test_a_database_that_holds_tables_of_somebody_else_is_not_taken(
    master: Database, databases: MasterAndTenant, settings: Settings, created_slug: str
) -> None:
    name = f"scada_{created_slug.replace('-', '_')}"
    async with await connect(databases.server.dsn, application="test", autocommit=True) as server:
        await server.execute(f"create database {name}")
    async with await connect(with_database(databases.server.dsn, name), application="test") as other:
        await other.execute("create table payroll ()")
    with pytest.raises(InvalidInput, match=rf'slug: the database "{name}" exists .* "payroll"'):
        await catalog.add_tenant(master, settings, created_slug, "Oil Co", prepare=migrate)


async def test_a_finished_tenants_database_is_not_taken_when_the_master_forgot_it(
    master: Database, settings: Settings, created_slug: str
) -> None:
    await catalog.add_tenant(master, settings, created_slug, "Oil Co", prepare=migrate)
    await master.execute("delete from tenants where slug = %s", [created_slug])
    await master.commit()
    with pytest.raises(InvalidInput, match="exists and holds tables"):
        await _create_database(settings, f"scada_{created_slug.replace('-', '_')}", created_slug)


async def test_a_slug_that_is_taken_is_refused(master: Database, settings: Settings) -> None:
    with pytest.raises(InvalidInput, match="slug: there is already a tenant 'acme'"):
        await catalog.add_tenant(master, settings, "acme", "Acme")


async def test_a_dsn_is_kept_sealed_and_given_back(
    master: Database, settings: Settings, new_database: Any, databases: MasterAndTenant
) -> None:
    dsn = new_database(databases.server.dsn)
    added = await catalog.add_tenant(master, settings, "far", "Far away", dsn=dsn, prepare=migrate)
    assert added.dsn == dsn
    listed = {tenant.slug: tenant.dsn for tenant in await catalog.list_tenants(master, settings)}
    assert listed["far"] == dsn
    ((sealed,),) = await rows(master, "select dsn_sealed from tenants where slug = 'far'")
    assert dsn.encode() not in sealed
    assert dsn not in repr(added)


async def test_a_tenant_whose_dsn_cannot_be_opened_is_left_out_and_the_others_stay(
    master: Database, settings: Settings, new_database: Any, databases: MasterAndTenant
) -> None:
    dsn = new_database(databases.server.dsn)
    await catalog.add_tenant(master, settings, "far", "Far away", dsn=dsn, prepare=migrate)
    other_key = Settings(database_url=settings.database_url, secrets_key="")
    assert [tenant.slug for tenant in await catalog.list_tenants(master, other_key)] == ["acme"]


async def test_a_dsn_of_the_master_or_of_another_tenant_is_refused(
    master: Database, settings: Settings, databases: MasterAndTenant
) -> None:
    for dsn, said in (
        (databases.master_dsn, "is the master database"),
        (databases.tenant_dsn, "is already the database of tenant 'acme'"),
        ("http//nonsense", "neither a postgresql:// URL"),
    ):
        with pytest.raises(InvalidInput, match=f"dsn: .*{said}"):
            await catalog.add_tenant(master, settings, "other", "Other", dsn=dsn, prepare=migrate)


async def test_a_dsn_without_a_key_to_seal_it_is_refused_before_anything_is_made(
    master: Database, settings: Settings
) -> None:
    without_key = Settings(database_url=settings.database_url)
    with pytest.raises(ConfigurationError, match="secrets_key"):
        await catalog.add_tenant(master, without_key, "far", "Far", dsn="postgresql://nowhere/x")


async def test_a_disabled_tenant_is_listed_only_on_demand(master: Database, settings: Settings) -> None:
    await catalog.disable_tenant(master, "acme")
    assert await catalog.list_tenants(master, settings) == []
    (tenant,) = await catalog.list_tenants(master, settings, include_disabled=True)
    assert tenant.status == "disabled"
    with pytest.raises(NotFound, match="slug: there is no tenant 'nobody'"):
        await catalog.disable_tenant(master, "nobody")


async def test_a_master_that_is_not_migrated_says_so(any_server: Any, new_database: Any) -> None:
    dsn = new_database(any_server.dsn)
    async with await connect(dsn, application="test") as empty:
        with pytest.raises(DatabaseNotMigrated, match="tenants"):
            await catalog.list_tenants(empty, Settings(database_url=dsn))


# Connections


async def test_a_connection_is_loaded_with_its_tags_and_its_password(
    database: Database, tenant_id: UUID
) -> None:
    added = await a_connection(database, tenant_id, username="reader", password="hunter2")
    tags = await catalog.add_tags(
        database,
        tenant_id,
        added.id,
        [
            NewTag("P", "ns=2;s=P", unit="PSI", scaling_factor=Decimal("0.00005"), offset=-40),
            NewTag("Q", "ns=2;s=Q"),
        ],
    )
    (loaded,) = await catalog.load_connections(database, tenant_id, secrets_key=KEY)
    assert (loaded.id, loaded.username, loaded.password) == (added.id, "reader", "hunter2")
    assert loaded.tags == catalog.TagSet.of(tags)
    assert (loaded.tags.scaling_factor[0], loaded.tags.offset[0]) == (0.00005, -40.0)
    assert (loaded.tags.scaling_factor[1], loaded.tags.offset[1]) == (1.0, 0.0)
    assert "hunter2" not in repr(loaded)
    ((kept,),) = await rows(database, "select password from scada_connections")
    assert "hunter2" not in kept


async def test_a_connection_whose_password_cannot_be_opened_is_left_out_and_says_why(
    database: Database, tenant_id: UUID
) -> None:
    broken = await a_connection(database, tenant_id, name="broken", username="reader", password="hunter2")
    fine = await a_connection(database, tenant_id, name="fine")
    loaded = await catalog.load_connections(database, tenant_id, secrets_key="")
    assert [connection.id for connection in loaded] == [fine.id]
    assert "secrets_key" in str((await catalog.get_connection(database, broken.id)).last_error)


async def test_disabled_and_deleted_connections_and_deleted_tags_are_not_loaded(
    database: Database, tenant_id: UUID
) -> None:
    await a_connection(database, tenant_id, name="disabled", is_enabled=False)
    deleted = await a_connection(database, tenant_id, name="deleted")
    await catalog.add_tags(database, tenant_id, deleted.id, [NewTag("P", "ns=2;s=P")])
    await catalog.delete_connection(database, deleted.id)
    kept = await a_connection(database, tenant_id, name="kept")
    tags = await catalog.add_tags(
        database, tenant_id, kept.id, [NewTag("P", "ns=2;s=P"), NewTag("Q", "ns=2;s=Q")]
    )
    await catalog.delete_tag(database, tags[0].tag_id)
    (loaded,) = await catalog.load_connections(database, tenant_id)
    assert (loaded.id, loaded.tags) == (kept.id, catalog.TagSet.of([tags[1]]))
    assert await catalog.list_tags(database, connection_id=deleted.id) == []
    for again in (
        catalog.delete_connection(database, deleted.id),
        catalog.delete_tag(database, tags[0].tag_id),
    ):
        with pytest.raises(NotFound):
            await again


# Tags


async def test_a_list_with_a_bad_tag_adds_none(database: Database, tenant_id: UUID) -> None:
    connection = await a_connection(database, tenant_id)
    with pytest.raises(InvalidRows, match=r"tags\[1\].opc_node_id"):
        await catalog.add_tags(
            database, tenant_id, connection.id, [NewTag("P", "ns=2;s=P"), NewTag("Q", "nonsense")]
        )
    assert await catalog.list_tags(database) == []


async def test_a_node_that_the_connection_already_reads_is_named_and_nothing_is_added(
    database: Database, tenant_id: UUID
) -> None:
    connection = await a_connection(database, tenant_id)
    await catalog.add_tags(database, tenant_id, connection.id, [NewTag("P", "ns=2;s=P")])
    with pytest.raises(InvalidRows, match=r"tags\[1\].opc_node_id: 'ns=2;s=P' is already a tag"):
        await catalog.add_tags(
            database, tenant_id, connection.id, [NewTag("Q", "ns=2;s=Q"), NewTag("P", "ns=2;s=P")]
        )
    assert [tag.tag_name for tag in await catalog.list_tags(database)] == ["P"]


async def test_a_deleted_tags_node_can_be_mapped_again_under_a_new_tag_id(
    database: Database, tenant_id: UUID
) -> None:
    connection = await a_connection(database, tenant_id)
    ids = []
    for _ in range(3):
        (tag,) = await catalog.add_tags(database, tenant_id, connection.id, [NewTag("P", "ns=2;s=P")])
        await catalog.delete_tag(database, tag.tag_id)
        ids.append(tag.tag_id)
    assert len(set(ids)) == 3


async def test_tags_of_a_connection_or_well_that_does_not_exist_are_refused(
    database: Database, tenant_id: UUID
) -> None:
    with pytest.raises(NotFound, match="connection_id"):
        await catalog.add_tags(database, tenant_id, uuid4(), [NewTag("P", "i=1")])
    connection = await a_connection(database, tenant_id)
    with pytest.raises(NotFound, match="well_id"):
        await catalog.add_tags(database, tenant_id, connection.id, [NewTag("P", "i=1", well_id=uuid4())])
    with pytest.raises(NotFound, match="connection_id"):
        await catalog.add_tags(database, uuid4(), connection.id, [NewTag("P", "i=1")])


async def test_ten_thousand_tags_are_imported_in_one_call_in_their_order(
    database: Database, tenant_id: UUID
) -> None:
    connection = await a_connection(database, tenant_id)
    new = [NewTag(f"T{i}", f"ns=2;i={i}") for i in range(10_000)]
    added = await catalog.add_tags(database, tenant_id, connection.id, new)
    assert [tag.opc_node_id for tag in added] == [tag.opc_node_id for tag in new]
    assert [tag.tag_id for tag in added] == sorted(tag.tag_id for tag in added)


# Lists


async def test_lists_come_in_pages_that_miss_nothing(database: Database, tenant_id: UUID) -> None:
    for name in ("c", "a", "b", "e", "d"):
        well = await catalog.add_well(database, tenant_id, name)
        new = NewConnection(well_id=well.id, name="same name", endpoint_url=ENDPOINT)
        await catalog.add_connection(database, tenant_id, new)
    wells: list[catalog.Well] = []
    connections: list[catalog.ConnectionSummary] = []
    for _ in range(3):
        wells += await catalog.list_wells(database, limit=2, after=wells[-1].id if wells else None)
        connections += await catalog.list_connections(
            database, limit=2, after=connections[-1].id if connections else None
        )
    assert [well.name for well in wells] == ["a", "b", "c", "d", "e"]
    assert len({connection.id for connection in connections}) == 5
    tags = await catalog.add_tags(
        database, tenant_id, connections[0].id, [NewTag(f"T{i}", f"i={i}") for i in range(5)]
    )
    first = await catalog.list_tags(database, limit=3)
    assert first + await catalog.list_tags(database, limit=3, after=first[-1].tag_id) == tags
    assert await catalog.list_tags(database, well_id=connections[1].well_id) == []


async def test_a_list_refuses_a_limit_and_a_place_that_cannot_be(database: Database) -> None:
    for limit in (0, -1, 10_001):
        with pytest.raises(InvalidInput, match=f"limit: {limit} "):
            await catalog.list_wells(database, limit=limit)
    with pytest.raises(NotFound, match="after"):
        await catalog.list_connections(database, after=uuid4())
    with pytest.raises(InvalidInput, match="after"):
        await catalog.list_tags(database, after=2**40)


# Seed


async def test_the_seed_makes_two_wells_two_connections_and_ten_tags_and_is_idempotent(
    database: Database, tenant_id: UUID
) -> None:
    await catalog.seed(database, tenant_id, ENDPOINT)
    first = await catalog.load_connections(database, tenant_id)
    await catalog.seed(database, tenant_id, ENDPOINT)
    assert await catalog.load_connections(database, tenant_id) == first
    assert len(await catalog.list_wells(database)) == 2
    assert len(first) == 2
    by_node = {tag.opc_node_id: tag for tag in await catalog.list_tags(database)}
    assert len(by_node) == 10
    for well in ("Permian", "Delaware"):
        for name, data_type, unit, factor in (
            ("CASING_PRESSURE", "DOUBLE", "PSI", 1.0),
            ("TUBING_PRESSURE", "FLOAT", "PSI", 1.0),
            ("OIL_FLOW_RATE", "DOUBLE", "BBL/D", 1.0),
            ("GAS_FLOW_RATE", "INT", "MCF/D", 0.1),
            ("WATER_FLOW_RATE", "UINT", "BBL/D", 1.0),
        ):
            tag = by_node[f"ns=2;s={well}.{name}"]
            assert (tag.tag_name, tag.data_type, tag.unit, tag.scaling_factor) == (
                name,
                data_type,
                unit,
                factor,
            )


async def test_the_seed_adds_what_is_missing_and_follows_a_new_endpoint(
    database: Database, tenant_id: UUID
) -> None:
    await catalog.seed(database, tenant_id, ENDPOINT)
    first = await catalog.list_tags(database)
    await catalog.delete_tag(database, first[0].tag_id)
    await catalog.seed(database, tenant_id, "opc.tcp://127.0.0.1:4841")
    loaded = await catalog.load_connections(database, tenant_id)
    assert {connection.endpoint_url for connection in loaded} == {"opc.tcp://127.0.0.1:4841"}
    assert len(await catalog.list_tags(database)) == 10
