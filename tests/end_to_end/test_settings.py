"""What is said of a connection and its tags is what the engine then asks a server for, and what lists show of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from engine import catalog
from engine.catalog import ItemSettings, NewTag
from engine.database import connect
from tests.end_to_end.engine_process import running_engine, until
from tests.end_to_end.plant import Plant, build_plant
from tests.servers import open62541
from tests.servers.databases import MasterAndTenant, Server, run
from tests.servers.opcua_server import OpcuaServer


@pytest.fixture(scope="session")
def any_server(embedded_dsn: str) -> Server:
    """One kind of database is enough here."""
    return Server("embedded", embedded_dsn)


@pytest.fixture
def sampled_server() -> Iterator[OpcuaServer]:
    """A server that samples as often as it is asked to."""
    with open62541.open62541_server(sampled=True) as server:
        yield server


def test_settings_of_a_connection_and_of_a_tag_reach_the_server_and_a_change_of_them_too(
    sampled_server: OpcuaServer, master_and_tenant: MasterAndTenant, tmp_path: Path
) -> None:
    plant = build_plant(
        master_and_tenant,
        sampled_server.endpoint,
        sampled_server.variables[:1],
        security_mode="Auto",
        security_policy="Auto",
        settings=ItemSettings(publishing_interval_ms=200.0, sampling_interval_ms=300.0, queue_size=4),
    )
    own = ItemSettings(sampling_interval_ms=700.0)
    more = [
        NewTag("own", sampled_server.variables[1].node_id, settings=own),
        NewTag("gone", "ns=1;s=not there"),
    ]
    run(
        _in_tenant(
            plant, lambda database, tenant: catalog.add_tags(database, tenant, plant.connection_id, more)
        )
    )
    with running_engine(master_and_tenant.master_dsn, tmp_path) as engine:
        engine.wait_ready()
        until(
            "the states of all tags", lambda: len(_states(plant)) == 3 and _active(plant, 200.0), timeout_s=30
        )
        states = _states(plant)
        assert [(state.monitored, state.revised_sampling_interval_ms) for state in states] == [
            (True, 300.0),
            (True, 700.0),
            (False, None),
        ]
        assert [state.reason for state in states] == [None, None, "unknown_node"]
        assert [state.revised_queue_size for state in states] == [4, 4, None]
        changes = {"settings": ItemSettings(publishing_interval_ms=400.0, sampling_interval_ms=500.0)}
        run(
            _in_tenant(
                plant,
                lambda database, tenant: catalog.change_connection(
                    database, tenant, plant.connection_id, changes
                ),
            )
        )
        until("the change is taken up", lambda: _active(plant, 400.0), timeout_s=30)
        until(
            "the states follow",
            lambda: [state.revised_sampling_interval_ms for state in _states(plant)] == [500.0, 700.0, None],
            timeout_s=30,
        )
        assert engine.stop() == 0, engine.log.read_text()


async def _in_tenant(plant: Plant, work: Any) -> Any:
    async with await connect(plant.databases.tenant_dsn, application="test") as database:
        found = await database.execute("select tenant_id from scada_connections")
        row = await found.fetchone()
        assert row is not None
        return await work(database, row[0])


def _states(plant: Plant) -> list[catalog.TagState]:
    """Return how the tags are read, in the order of their ids."""
    tag_ids = [row[0] for row in plant.rows("select tag_id from tag_mappings order by tag_id")]

    async def states(database: psycopg.AsyncConnection[Any], _: object) -> list[catalog.TagState]:
        found = await catalog.list_tag_states(database, tag_ids)
        return [found[tag_id] for tag_id in sorted(found)]

    listed: list[catalog.TagState] = run(_in_tenant(plant, states))
    return listed


def _active(plant: Plant, publishing_interval_ms: float) -> bool:
    """Whether the connection reads two tags, with this publishing interval, without security."""

    async def active(database: psycopg.AsyncConnection[Any], _: object) -> catalog.ActiveConnection | None:
        return (await catalog.get_connection(database, plant.connection_id)).active

    found: catalog.ActiveConnection | None = run(_in_tenant(plant, active))
    return found is not None and (
        found.monitored,
        found.security_mode,
        found.security_policy,
        found.revised_publishing_interval_ms,
    ) == (2, "None", "None", publishing_interval_ms)
