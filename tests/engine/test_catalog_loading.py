"""What a worker loads of the catalog on real servers, and what it does not load again; what it writes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import numpy as np
import psycopg
import pytest

from engine import catalog
from engine.catalog import ActiveConnection, ItemSettings, KnownConnections, NewTag, TagSet
from engine.errors import ConfigurationError, InvalidInput, NotFound
from engine.metrics import MissingReason
from tests.engine.catalog_entries import CERTIFICATE, ENDPOINT, KEY, PRIVATE_KEY, a_connection

Database = psycopg.AsyncConnection[Any]

SETTINGS = ItemSettings(
    read_mode="subscribe",
    publishing_interval_ms=250.0,
    sampling_interval_ms=-1.0,
    queue_size=100,
    discard_oldest=False,
    deadband_type="Percent",
    deadband_value=0.5,
    data_change_trigger="StatusValueTimestamp",
    timestamps_to_return="Both",
)
ACTIVE = ActiveConnection(
    endpoint_url="opc.tcp://10.0.0.6:4840",
    security_mode="SignAndEncrypt",
    security_policy="Basic256Sha256",
    monitored=7,
    revised_publishing_interval_ms=1_000.0,
    revised_lifetime_ms=300_000.0,
)


async def test_everything_that_was_asked_for_is_loaded(database: Database, tenant_id: UUID) -> None:
    added = await a_connection(
        database,
        tenant_id,
        security_mode="Sign",
        security_policy="Basic256",
        username="reader",
        password="hunter2",
        failover_urls=("opc.tcp://10.0.0.6:4840", "opc.tcp://10.0.0.7:4840/path"),
        settings=SETTINGS,
        user_certificate=CERTIFICATE,
        user_private_key=PRIVATE_KEY,
        allow_deprecated_policies=True,
        allow_plain_password=True,
    )
    (loaded,) = await catalog.load_connections(database, tenant_id, secrets_key=KEY)
    assert loaded.endpoint_urls == (ENDPOINT, "opc.tcp://10.0.0.6:4840", "opc.tcp://10.0.0.7:4840/path")
    assert (loaded.settings, added.settings) == (SETTINGS, SETTINGS)
    assert (loaded.user_certificate, loaded.user_private_key) == (CERTIFICATE, PRIVATE_KEY)
    assert (loaded.allow_deprecated_policies, loaded.allow_plain_password) == (True, True)
    assert (loaded.security_mode, loaded.security_policy) == ("Sign", "Basic256")
    assert added.has_user_certificate
    assert PRIVATE_KEY not in repr(loaded)
    found = await database.execute("select user_private_key from scada_connections")
    assert "PRIVATE KEY" not in str(await found.fetchone())


async def test_a_user_key_that_cannot_be_opened_leaves_the_connection_out(
    database: Database, tenant_id: UUID
) -> None:
    added = await a_connection(
        database, tenant_id, user_certificate=CERTIFICATE, user_private_key=PRIVATE_KEY
    )
    assert await catalog.load_connections(database, tenant_id) == []
    assert "secrets_key" in str((await catalog.get_connection(database, added.id)).last_error)


async def test_tags_are_loaded_as_columns_equal_to_the_tags_that_were_added(
    database: Database, tenant_id: UUID
) -> None:
    other = await a_connection(database, tenant_id, name="A")
    connection = await a_connection(database, tenant_id, name="B")
    own = (SETTINGS, ItemSettings(), ItemSettings(queue_size=5), SETTINGS, ItemSettings())
    new = [
        NewTag(f"T{place}", node_id, data_type, scaling_factor=place + 0.1, offset=-place, settings=settings)
        for place, (node_id, data_type, settings) in enumerate(
            zip(
                [
                    "ns=2;s=Druck °C",
                    "/Objects/2:Plant/2:Temp[3]",
                    "nsu=urn:x;i=7",
                    "g=" + str(UUID(int=7)),
                    "i=1",
                ],
                ["DOUBLE", "ENUM", "STRUCT", "STRING", "ULONG"],
                own,
                strict=True,
            )
        )
    ]
    tags = await catalog.add_tags(database, tenant_id, connection.id, new)
    others = await catalog.add_tags(database, tenant_id, other.id, [NewTag("X", "i=1"), NewTag("Y", "i=2")])
    assert [tag.settings for tag in tags] == list(own)
    first, second = await catalog.load_connections(database, tenant_id)
    assert (first.tags, second.tags) == (TagSet.of(others), TagSet.of(tags))
    assert [second.tags.settings(place) for place in range(5)] == list(own)
    assert len(second.tags.profiles) == 3
    assert list(second.tags.node_ids()) == [tag.opc_node_id for tag in new]


async def test_a_connection_without_tags_has_none(database: Database, tenant_id: UUID) -> None:
    await a_connection(database, tenant_id)
    (loaded,) = await catalog.load_connections(database, tenant_id)
    assert len(loaded.tags) == 0


async def test_what_did_not_change_is_not_read_again(database: Database, tenant_id: UUID) -> None:
    await catalog.seed(database, tenant_id, ENDPOINT)
    known = KnownConnections()
    first = await catalog.load_connections(database, tenant_id, known=known)
    await database.execute("alter table tag_mappings rename to elsewhere")
    again = await catalog.load_connections(database, tenant_id, known=known)
    assert [id(connection) for connection in again] == [id(connection) for connection in first]
    await database.rollback()


async def test_what_the_engine_writes_is_no_change(database: Database, tenant_id: UUID) -> None:
    await catalog.seed(database, tenant_id, ENDPOINT)
    known = KnownConnections()
    first = await catalog.load_connections(database, tenant_id, known=known)
    for connection in first:
        await catalog.record_connection(database, connection.id, connected=True, error="x", active=ACTIVE)
        await record(database, connection.tags.tag_id)
    again = await catalog.load_connections(database, tenant_id, known=known)
    assert [id(connection) for connection in again] == [id(connection) for connection in first]


async def _sql(database: Database, statement: str) -> None:
    await database.execute(statement.encode())


@pytest.mark.parametrize(
    "change",
    [
        "update scada_connections set endpoint_url = 'opc.tcp://h:1' where name = 'Permian RTU simulator'",
        "update scada_connections set queue_size = 7 where name = 'Permian RTU simulator'",
        "update scada_connections set failover_urls = '{opc.tcp://h:1}' where name = 'Permian RTU simulator'",
        "update scada_connections set allow_plain_password = true where name = 'Permian RTU simulator'",
        "update tag_mappings set deleted_at = now() where opc_node_id = 'ns=2;s=Permian.OIL_FLOW_RATE'",
        "update tag_mappings set scaling_factor = 3 where opc_node_id = 'ns=2;s=Permian.OIL_FLOW_RATE'",
        "update tag_mappings set sampling_interval_ms = 3 where opc_node_id = 'ns=2;s=Permian.OIL_FLOW_RATE'",
        "update tag_mappings set data_type = 'FLOAT' where opc_node_id = 'ns=2;s=Permian.OIL_FLOW_RATE'",
        "delete from tag_mappings where opc_node_id = 'ns=2;s=Permian.OIL_FLOW_RATE'",
    ],
)
async def test_what_a_person_changes_is_found_and_the_rest_stays_the_same_object(
    database: Database, tenant_id: UUID, change: str
) -> None:
    await catalog.seed(database, tenant_id, ENDPOINT)
    known = KnownConnections()
    delaware, permian = await catalog.load_connections(database, tenant_id, known=known)
    await _sql(database, change)
    same, changed = await catalog.load_connections(database, tenant_id, known=known)
    assert same is delaware
    assert changed != permian
    assert (await catalog.load_connections(database, tenant_id, known=known))[1] is changed


async def test_a_new_password_is_found_and_the_same_one_sealed_again_is_not(
    database: Database, tenant_id: UUID
) -> None:
    from engine import secrets

    await a_connection(database, tenant_id, username="reader", password="hunter2")
    known = KnownConnections()

    async def load() -> catalog.Connection:
        (found,) = await catalog.load_connections(database, tenant_id, secrets_key=KEY, known=known)
        return found

    first = await load()
    for password, is_same in (("hunter2", True), ("hunter3", False)):
        sealed = secrets.seal(password, key=KEY, tenant_id=tenant_id)
        await database.execute("update scada_connections set password = %s", [sealed])
        assert (await load() is first) == is_same


async def test_a_change_that_no_reading_depends_on_reads_the_tags_once_and_keeps_the_connection(
    database: Database, tenant_id: UUID
) -> None:
    await catalog.seed(database, tenant_id, ENDPOINT)
    known = KnownConnections()
    first = await catalog.load_connections(database, tenant_id, known=known)
    await _sql(database, "update tag_mappings set unit = 'bar'")
    assert await catalog.load_connections(database, tenant_id, known=known) == first
    await database.execute("alter table tag_mappings rename to elsewhere")
    again = await catalog.load_connections(database, tenant_id, known=known)
    assert [id(connection) for connection in again] == [id(connection) for connection in first]
    await database.rollback()


async def test_a_connection_that_is_gone_is_forgotten(database: Database, tenant_id: UUID) -> None:
    added = await a_connection(database, tenant_id)
    known = KnownConnections()
    (first,) = await catalog.load_connections(database, tenant_id, known=known)
    await _sql(database, "update scada_connections set is_enabled = false")
    assert await catalog.load_connections(database, tenant_id, known=known) == []
    assert known.tags(added.id, 0) is None
    await _sql(database, "update scada_connections set is_enabled = true")
    assert await catalog.load_connections(database, tenant_id, known=known) == [first]


# One connection


async def test_one_connection_is_found_by_name_or_id_also_when_disabled(
    database: Database, tenant_id: UUID
) -> None:
    added = await a_connection(database, tenant_id, username="u", password="hunter2", is_enabled=False)
    await catalog.add_tags(database, tenant_id, added.id, [NewTag("P", "i=1")])
    for wanted in ("RTU", str(added.id)):
        found = await catalog.load_connection(database, tenant_id, wanted, secrets_key=KEY)
        assert (found.id, found.password, len(found.tags)) == (added.id, "hunter2", 1)
    with pytest.raises(ConfigurationError, match="secrets_key"):
        await catalog.load_connection(database, tenant_id, "RTU")


async def test_one_connection_that_is_not_there_or_not_the_only_one_is_refused(
    database: Database, tenant_id: UUID
) -> None:
    with pytest.raises(NotFound, match="connection: there is no connection 'RTU'"):
        await catalog.load_connection(database, tenant_id, "RTU")
    both = [await a_connection(database, tenant_id) for _ in range(2)]
    with pytest.raises(InvalidInput, match="connection: 2 have the name 'RTU', give the id: ") as raised:
        await catalog.load_connection(database, tenant_id, "RTU")
    assert all(str(connection.id) in str(raised.value) for connection in both)


# What the engine writes


async def test_how_a_connection_is_doing_is_recorded(database: Database, tenant_id: UUID) -> None:
    added = await a_connection(database, tenant_id)
    assert added.active is None
    await catalog.record_connection(database, added.id, connected=True, error=None, active=ACTIVE)
    first = await catalog.get_connection(database, added.id)
    assert first.last_connected_at is not None
    assert first.active == ACTIVE
    await catalog.record_connection(database, added.id, connected=False, error="refused\0" + "x" * 5_000)
    second = await catalog.get_connection(database, added.id)
    assert (second.last_connected_at, second.active) == (first.last_connected_at, None)
    assert str(second.last_error).startswith("refused␀xxx")
    found = await database.execute("select updated_at > created_at from scada_connections")
    assert await found.fetchone() == (False,)


REASONS = ("unknown_node", "server_limit")


async def record(
    database: Database, tag_id: np.ndarray[Any, np.dtype[np.int32]], refused: Sequence[int] = ()
) -> int:
    """Write that all tags are read but these."""
    monitored = np.ones(len(tag_id), np.bool_)
    monitored[list(refused)] = False
    return await catalog.record_tag_states(
        database,
        tag_id,
        monitored=monitored,
        reason=np.where(monitored, 255, 1).astype(np.uint8),
        reasons=REASONS,
        sampling_ms=np.where(monitored, 500.0, np.nan).astype(np.float32),
        queue_size=np.where(monitored, 2**32 - 1, 0).astype(np.uint32),
    )


async def test_how_each_tag_is_read_is_recorded_and_only_what_changed_is_written(
    database: Database, tenant_id: UUID
) -> None:
    connection = await a_connection(database, tenant_id)
    added = await catalog.add_tags(
        database, tenant_id, connection.id, [NewTag(f"T{i}", f"i={i}") for i in range(5)]
    )
    tag_id = np.array([tag.tag_id for tag in added], np.int32)
    await catalog.record_connection(database, connection.id, connected=True, error=None, active=ACTIVE)
    assert await record(database, tag_id, refused=[1]) == 5
    assert await record(database, tag_id, refused=[1]) == 0
    assert await record(database, tag_id, refused=[1, 4]) == 1
    states = await catalog.list_tag_states(database, tag_id.tolist())
    assert [states[tag].monitored for tag in tag_id] == [True, False, True, True, False]
    read, refused = states[int(tag_id[0])], states[int(tag_id[1])]
    assert (read.reason, read.revised_sampling_interval_ms, read.revised_queue_size) == (
        None,
        500.0,
        2**32 - 1,
    )
    assert (refused.reason, refused.revised_sampling_interval_ms, refused.revised_queue_size) == (
        "server_limit",
        None,
        None,
    )


async def test_no_state_of_no_tags_is_recorded(database: Database) -> None:
    assert await record(database, np.empty(0, np.int32)) == 0


async def test_no_tag_of_a_connection_that_is_not_connected_counts_as_read(
    database: Database, tenant_id: UUID
) -> None:
    connection = await a_connection(database, tenant_id)
    (tag,) = await catalog.add_tags(database, tenant_id, connection.id, [NewTag("P", "i=1")])
    assert await catalog.list_tag_states(database, [tag.tag_id]) == {}
    await record(database, np.array([tag.tag_id], np.int32))
    state = (await catalog.list_tag_states(database, [tag.tag_id]))[tag.tag_id]
    assert (state.monitored, state.reason) == (False, MissingReason.NOT_CONNECTED.label)
