"""What a worker reads of the catalog: enabled connections with their secrets opened and their tags as columns.

No tag becomes an object on the way: PostgreSQL packs each column of a connection's tags into one byte string, in the
order of tag_id, and numpy takes it from there. A connection whose tags did not change is not read again:
tag_versions counts the changes (migrations/tenant/0004_opcua_settings.sql), and `KnownConnections` remembers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
from psycopg.rows import dict_row

from engine import secrets
from engine.catalog.connection import Connection
from engine.catalog.records import ITEM_COLUMNS, ItemSettings
from engine.catalog.rules import DATA_TYPES
from engine.catalog.states import record_connection
from engine.catalog.tag_set import TagSet
from engine.database import translated
from engine.errors import ConfigurationError, InvalidInput, NotFound

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from psycopg import AsyncConnection

# Held in memory at once while loading, packed: 8 connections of 10 000 tags are some 5 MB.
_CONNECTIONS_PER_FETCH = 8
_PROFILES_PER_FETCH = 1_000
_SETTINGS = ", ".join(ITEM_COLUMNS)
_CONNECTIONS = f"""
    select c.id, c.well_id, c.name, c.endpoint_url, c.security_mode, c.security_policy, c.username, c.password,
        c.poll_interval_seconds, c.is_enabled, c.updated_at, c.failover_urls, c.user_certificate, c.user_private_key,
        c.allow_deprecated_policies, c.allow_plain_password, c.last_error,
        {", ".join(f"c.{name}" for name in ITEM_COLUMNS)}, coalesce(v.version, 0) as version
    from scada_connections c left join tag_versions v on v.connection_id = c.id
"""
# Big-endian, as PostgreSQL sends numbers. An explicit order for each: PostgreSQL 16 sorts once for all of them.
_TAGS = """
    select connection_id,
        string_agg(int4send(tag_id), ''::bytea order by tag_id) as tag_id,
        string_agg(float8send(coalesce(scaling_factor, 1)::float8), ''::bytea order by tag_id) as scaling_factor,
        string_agg(float8send(coalesce("offset", 0)::float8), ''::bytea order by tag_id) as "offset",
        string_agg(convert_to(opc_node_id, 'UTF8'), ''::bytea order by tag_id) as node_ids,
        string_agg(int4send(octet_length(convert_to(opc_node_id, 'UTF8'))), ''::bytea order by tag_id) as lengths,
        string_agg(
            int2send((coalesce(array_position(%(types)s::text[], data_type::text), 1) - 1)::int2),
            ''::bytea order by tag_id
        ) as data_type
    from tag_mappings
    where connection_id = any(%(ids)s) and deleted_at is null
    group by connection_id
"""
# Few tags have settings of their own, and many of them the same.
_PROFILES = f"""
    select connection_id, {_SETTINGS}, string_agg(int4send(tag_id), ''::bytea) as tag_id
    from tag_mappings
    where connection_id = any(%(ids)s) and deleted_at is null and num_nonnulls({_SETTINGS}) > 0
    group by connection_id, {_SETTINGS}
    order by min(tag_id)
"""


class KnownConnections:
    """What `load_connections` found the last time; one for each tenant that a worker runs."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[UUID, tuple[int, Connection]] = {}

    def tags(self, connection_id: UUID, version: int) -> TagSet | None:
        """Return the tags of a connection where they are known in this version."""
        known = self._known.get(connection_id)
        return known[1].tags if known is not None and known[0] == version else None

    def remember(self, found: list[tuple[int, Connection]]) -> list[Connection]:
        """Keep connections with the version of their tags; return them, what did not change as the object of before."""
        kept = []
        for version, connection in found:
            known = self._known.get(connection.id)
            kept.append((version, known[1] if known is not None and known[1] == connection else connection))
        self._known = {connection.id: (version, connection) for version, connection in kept}
        return [connection for _, connection in kept]


async def load_connections(
    database: AsyncConnection[Any],
    tenant_id: UUID,
    *,
    secrets_key: str = "",
    known: KnownConnections | None = None,
) -> list[Connection]:
    """Return the enabled connections with their tags, in the order of their names and tag ids.

    What did not change since the last call with the same `known` is the same object again. A connection with a secret
    that does not open is left out, and its last_error says why.
    """
    known = KnownConnections() if known is None else known
    with translated("cannot load the connections"):
        rows = await _rows(
            database,
            "where c.tenant_id = %(tenant_id)s and c.is_enabled and c.deleted_at is null order by c.name, c.id",
            {"tenant_id": tenant_id},
        )
    usable = []
    for row in rows:
        try:
            _open_secrets(row, secrets_key, tenant_id)
        except ConfigurationError as exc:
            if row["last_error"] != str(exc):
                await record_connection(database, row["id"], connected=False, error=str(exc))
        else:
            usable.append(row)
    # The versions are older than the tags that are read now: a change in between is found by the next call.
    tags = {row["id"]: known.tags(row["id"], row["version"]) for row in usable}
    tags |= await _load_tags(database, [key for key, found in tags.items() if found is None])
    return known.remember([(row["version"], _connection(row, tags[row["id"]])) for row in usable])


async def load_connection(
    database: AsyncConnection[Any], tenant_id: UUID, name_or_id: str, *, secrets_key: str = ""
) -> Connection:
    """Return one connection with its tags, also a disabled one.

    Raises NotFound, InvalidInput when several have the name, and ConfigurationError for a secret that does not open.
    """
    with translated("cannot load the connection"):
        rows = await _rows(
            database,
            """
            where c.tenant_id = %(tenant_id)s and c.deleted_at is null
                and (c.name = %(wanted)s or c.id::text = %(wanted)s)
            order by c.id
            """,
            {"tenant_id": tenant_id, "wanted": name_or_id},
        )
    if not rows:
        raise NotFound("connection", f"there is no connection {name_or_id!r}")
    if len(rows) > 1:
        ids = ", ".join(str(row["id"]) for row in rows)
        raise InvalidInput("connection", f"{len(rows)} have the name {name_or_id!r}, give the id: {ids}")
    (row,) = rows
    _open_secrets(row, secrets_key, tenant_id)
    return _connection(row, (await _load_tags(database, [row["id"]]))[row["id"]])


async def _rows(
    database: AsyncConnection[Any], which: str, parameters: dict[str, Any]
) -> list[dict[str, Any]]:
    async with database.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(f"{_CONNECTIONS} {which}", parameters)
        return await cursor.fetchall()


def _open_secrets(row: dict[str, Any], secrets_key: str, tenant_id: UUID) -> None:
    for name in ("password", "user_private_key"):
        if row[name] is not None:
            row[name] = secrets.unseal(row[name], key=secrets_key, tenant_id=tenant_id)


def _connection(row: dict[str, Any], tags: TagSet | None) -> Connection:
    """Return the connection of a row of _CONNECTIONS whose secrets are open."""
    values = {
        name: value for name, value in row.items() if name not in (*ITEM_COLUMNS, "last_error", "version")
    }
    values["failover_urls"] = tuple(row["failover_urls"])
    settings = ItemSettings(**{name: row[name] for name in ITEM_COLUMNS})
    return Connection(**values, settings=settings, tags=TagSet.of(()) if tags is None else tags)


async def _load_tags(database: AsyncConnection[Any], ids: list[UUID]) -> dict[UUID, TagSet]:
    """Return the tags of these connections; one without any has an empty set."""
    loaded = {key: TagSet.of(()) for key in ids}
    if not ids:
        return loaded
    parameters = {"ids": ids, "types": list(DATA_TYPES)}
    with translated("cannot load the tags"):
        # A server-side cursor needs a transaction, and lets us hold a few connections at a time.
        async with database.transaction():
            profiles = await _load_profiles(database, parameters)
            async with database.cursor("tags", row_factory=dict_row, binary=True) as cursor:
                cursor.itersize = _CONNECTIONS_PER_FETCH
                await cursor.execute(_TAGS, parameters)
                async for row in cursor:
                    key = row.pop("connection_id")
                    loaded[key] = _tag_set(row, profiles.get(key, []))
    return loaded


_Profiles = list[tuple[ItemSettings, "NDArray[np.int32]"]]


async def _load_profiles(database: AsyncConnection[Any], parameters: dict[str, Any]) -> dict[UUID, _Profiles]:
    """Return the settings that tags have of their own, and which tags: by connection, in the order of tag ids."""
    profiles: dict[UUID, _Profiles] = {}
    async with database.cursor("profiles", row_factory=dict_row, binary=True) as cursor:
        cursor.itersize = _PROFILES_PER_FETCH
        await cursor.execute(_PROFILES, parameters)
        async for row in cursor:
            key, tag_id = row.pop("connection_id"), row.pop("tag_id")
            profiles.setdefault(key, []).append((ItemSettings(**row), _numbers(tag_id, ">i4", np.int32)))
    return profiles


def _tag_set(row: dict[str, bytes], profiles: _Profiles) -> TagSet:
    tag_id = _numbers(row["tag_id"], ">i4", np.int32)
    # Nobody writes so many different settings by hand; a file that was made by a program may have them.
    profile: NDArray[Any] = np.zeros(len(tag_id), np.uint16 if len(profiles) < 1 << 16 else np.uint32)
    for place, (_, own) in enumerate(profiles, 1):
        where = np.searchsorted(tag_id, own)
        # A tag that came or went between the two queries is not in both.
        where = where[where < len(tag_id)]
        profile[where[np.isin(tag_id[where], own)]] = place
    return TagSet(
        tag_id=tag_id,
        scaling_factor=_numbers(row["scaling_factor"], ">f8", np.float64),
        offset=_numbers(row["offset"], ">f8", np.float64),
        node_ids=row["node_ids"],
        node_id_end=np.cumsum(_numbers(row["lengths"], ">i4", np.uint32), dtype=np.uint32),
        data_types=DATA_TYPES,
        data_type=_numbers(row["data_type"], ">i2", np.uint8),
        profiles=(ItemSettings(), *(settings for settings, _ in profiles)),
        profile=profile,
    )


def _numbers(packed: bytes, sent_as: str, dtype: type[np.generic]) -> NDArray[Any]:
    return np.frombuffer(packed, sent_as).astype(dtype)
