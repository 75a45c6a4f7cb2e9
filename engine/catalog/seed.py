"""The seed: two wells of a small producer, the two connections to them, and their ten tags.

Its node ids and data types are those that `scada-engine simulate` serves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from engine.catalog.commands import add_connection, add_well
from engine.catalog.new_tags import add_tags
from engine.catalog.records import NewConnection, NewTag
from engine.catalog.rules import check_endpoint_url
from engine.database import translated

if TYPE_CHECKING:
    from psycopg import AsyncConnection

# Word in the node ids, name of the well, name of the connection.
_WELLS = (
    ("Permian", "Permian Basin Well 1", "Permian RTU simulator"),
    ("Delaware", "Delaware Basin Well 1", "Delaware PLC simulator"),
)


def _tags(word: str) -> list[NewTag]:
    return [
        NewTag("CASING_PRESSURE", f"ns=2;s={word}.CASING_PRESSURE", "DOUBLE", "PSI"),
        NewTag("TUBING_PRESSURE", f"ns=2;s={word}.TUBING_PRESSURE", "FLOAT", "PSI"),
        NewTag("OIL_FLOW_RATE", f"ns=2;s={word}.OIL_FLOW_RATE", "DOUBLE", "BBL/D"),
        # The device counts in tenths of MCF/D, as integers.
        NewTag("GAS_FLOW_RATE", f"ns=2;s={word}.GAS_FLOW_RATE", "INT", "MCF/D", scaling_factor=0.1),
        NewTag("WATER_FLOW_RATE", f"ns=2;s={word}.WATER_FLOW_RATE", "UINT", "BBL/D"),
    ]


async def seed(database: AsyncConnection[Any], tenant_id: UUID, endpoint_url: str) -> None:
    """Make the seed's wells, connections to `endpoint_url`, and tags; all or nothing.

    Done again, it adds what is missing and points the connections to `endpoint_url`.
    """
    check_endpoint_url(endpoint_url)
    with translated("cannot seed the tenant"):
        async with database.transaction():
            # Two seeds at once would each find nothing and add everything.
            await database.execute("lock table wells in share row exclusive mode")
            for word, well_name, connection_name in _WELLS:
                well_id = await _well(database, tenant_id, well_name)
                connection_id = await _connection(database, tenant_id, well_id, connection_name, endpoint_url)
                cursor = await database.execute(
                    "select opc_node_id from tag_mappings where connection_id = %s and deleted_at is null",
                    [connection_id],
                )
                present = {row[0] for row in await cursor.fetchall()}
                missing = [tag for tag in _tags(word) if tag.opc_node_id not in present]
                if missing:
                    await add_tags(database, tenant_id, connection_id, missing)


async def _well(database: AsyncConnection[Any], tenant_id: UUID, name: str) -> UUID:
    cursor = await database.execute(
        "select id from wells where tenant_id = %s and name = %s and deleted_at is null", [tenant_id, name]
    )
    if found := await cursor.fetchone():
        known: UUID = found[0]
        return known
    return (await add_well(database, tenant_id, name)).id


async def _connection(
    database: AsyncConnection[Any], tenant_id: UUID, well_id: UUID, name: str, endpoint_url: str
) -> UUID:
    cursor = await database.execute(
        """
        select id, endpoint_url from scada_connections
        where tenant_id = %s and well_id = %s and name = %s and deleted_at is null order by created_at, id limit 1
        """,
        [tenant_id, well_id, name],
    )
    found = await cursor.fetchone()
    if found is None:
        new = NewConnection(well_id=well_id, name=name, endpoint_url=endpoint_url)
        return (await add_connection(database, tenant_id, new)).id
    known: UUID = found[0]
    if found[1] != endpoint_url:
        await database.execute(
            "update scada_connections set endpoint_url = %s, updated_at = now() where id = %s",
            [endpoint_url, known],
        )
    return known
