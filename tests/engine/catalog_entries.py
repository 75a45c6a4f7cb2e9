"""Entries that tests of the catalog need before they can begin."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from engine import catalog
from engine.catalog import NewConnection

if TYPE_CHECKING:
    import psycopg

KEY = base64.b64encode(bytes(32)).decode()
ENDPOINT = "opc.tcp://127.0.0.1:4840"

# Shapes only: the catalog does not look inside.
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIU\n-----END CERTIFICATE-----\n"
PRIVATE_KEY = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49\n-----END PRIVATE KEY-----\n"


async def a_connection(
    database: psycopg.AsyncConnection[Any], tenant_id: UUID, **changes: Any
) -> catalog.ConnectionSummary:
    """Add a connection to a well of its own."""
    well = await catalog.add_well(database, tenant_id, f"Well {uuid4()}")
    new: dict[str, Any] = {"well_id": well.id, "name": "RTU", "endpoint_url": ENDPOINT} | changes
    return await catalog.add_connection(database, tenant_id, NewConnection(**new), secrets_key=KEY)
