"""Changing a connection on real servers: what is named changes, everything else stays, and workers see it."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from engine import catalog
from engine.catalog import ItemSettings, KnownConnections
from engine.errors import ConfigurationError, InvalidInput, NotFound
from tests.engine.catalog_entries import CERTIFICATE, KEY, PRIVATE_KEY, a_connection

Database = psycopg.AsyncConnection[Any]


async def loaded(database: Database, tenant_id: UUID) -> catalog.Connection:
    (found,) = await catalog.load_connections(database, tenant_id, secrets_key=KEY)
    return found


async def test_what_is_named_changes_and_the_rest_stays_secrets_included(
    database: Database, tenant_id: UUID
) -> None:
    added = await a_connection(
        database,
        tenant_id,
        username="reader",
        password="hunter2",
        user_certificate=CERTIFICATE,
        user_private_key=PRIVATE_KEY,
        settings=ItemSettings(queue_size=5),
        failover_urls=("opc.tcp://b:1",),
    )
    await database.commit()
    before = await loaded(database, tenant_id)
    changed = await catalog.change_connection(
        database, tenant_id, added.id, {"endpoint_url": "opc.tcp://c:1", "security_mode": "Auto"}
    )
    await database.commit()
    after = await loaded(database, tenant_id)
    assert (changed.endpoint_url, changed.security_mode, changed.settings.queue_size) == (
        "opc.tcp://c:1",
        "Auto",
        5,
    )
    assert (after.password, after.user_private_key) == ("hunter2", PRIVATE_KEY)
    assert after.failover_urls == ("opc.tcp://b:1",)
    assert after.updated_at > before.updated_at


async def test_a_worker_that_knows_the_connection_sees_a_new_password(
    database: Database, tenant_id: UUID
) -> None:
    added = await a_connection(database, tenant_id, username="reader", password="hunter2")
    known = KnownConnections()
    (before,) = await catalog.load_connections(database, tenant_id, secrets_key=KEY, known=known)
    await catalog.change_connection(database, tenant_id, added.id, {"password": "hunter3"}, secrets_key=KEY)
    (after,) = await catalog.load_connections(database, tenant_id, secrets_key=KEY, known=known)
    assert (after != before, after.password) == (True, "hunter3")
    assert after.tags is before.tags
    found = await database.execute("select password from scada_connections")
    assert "hunter3" not in str(await found.fetchone())


async def test_without_a_user_name_there_is_no_password(database: Database, tenant_id: UUID) -> None:
    added = await a_connection(database, tenant_id, username="reader", password="hunter2")
    await catalog.change_connection(database, tenant_id, added.id, {"username": None})
    after = await loaded(database, tenant_id)
    assert (after.username, after.password) == (None, None)


async def test_settings_are_replaced_as_a_whole(database: Database, tenant_id: UUID) -> None:
    added = await a_connection(database, tenant_id, settings=ItemSettings(queue_size=5, read_mode="poll"))
    changed = await catalog.change_connection(
        database, tenant_id, added.id, {"settings": ItemSettings(sampling_interval_ms=100.0)}
    )
    assert changed.settings == ItemSettings(sampling_interval_ms=100.0)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({}, "changes"),
        ({"well_id": UUID(int=1)}, "changes"),
        ({"id": UUID(int=1)}, "changes"),
        ({"endpoint_url": "plc"}, "endpoint_url"),
        ({"security_policy": "Basic256", "security_mode": "Sign"}, "security_policy"),
        ({"security_mode": "Sign"}, "security_policy"),
        ({"password": "hunter2"}, "password"),
        ({"user_certificate": CERTIFICATE}, "user_certificate"),
    ],
)
async def test_a_change_that_does_not_fit_what_there_is_changes_nothing(
    database: Database, tenant_id: UUID, changes: dict[str, Any], field: str
) -> None:
    added = await a_connection(database, tenant_id)
    with pytest.raises(InvalidInput) as raised:
        await catalog.change_connection(database, tenant_id, added.id, changes, secrets_key=KEY)
    assert raised.value.field == field
    assert await catalog.get_connection(database, added.id) == added


async def test_a_connection_that_is_not_there_or_a_secret_without_a_key_is_refused(
    database: Database, tenant_id: UUID
) -> None:
    added = await a_connection(database, tenant_id, username="reader")
    with pytest.raises(NotFound, match="connection_id"):
        await catalog.change_connection(database, tenant_id, uuid4(), {"name": "x"})
    with pytest.raises(NotFound, match="connection_id"):
        await catalog.change_connection(database, uuid4(), added.id, {"name": "x"})
    with pytest.raises(ConfigurationError, match="secrets_key"):
        await catalog.change_connection(database, tenant_id, added.id, {"password": "hunter2"})
