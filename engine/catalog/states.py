"""What the engine itself writes into the catalog and shows of it: how connections are doing, and how each tag is read.

None of it is a change that a person made: it moves no updated_at, and no worker reads a catalog again for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np

from engine.catalog.packed_arrays import packed, take_packed_arrays
from engine.catalog.records import ActiveConnection, TagState
from engine.database import translated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from psycopg import AsyncConnection

_MOST_ERROR_CHARACTERS = 2_000
# The word of the metrics for it (MissingReason); a test compares the two.
_NOT_CONNECTED = "not_connected"
_RECORD_TAGS = """
    insert into tag_states as s (tag_id, monitored, reason, revised_sampling_interval_ms, revised_queue_size)
    select n.tag_id, n.monitored, n.reason, n.sampling_ms, n.queue_size
    from (
        select tag_id, monitored, (%(reasons)s::text[])[place + 1] as reason,
            nullif(sampling_ms, 'NaN') as sampling_ms, nullif(queue_size, 0) as queue_size
        from unnest(
            %(tag_id)s::int[], %(monitored)s::bool[], %(reason)s::int[], %(sampling_ms)s::float8[],
            %(queue_size)s::bigint[]
        ) as sent(tag_id, monitored, place, sampling_ms, queue_size)
    ) n
    -- Not only "on conflict ... where": that would write to every row that stays the same, to lock it.
    left join tag_states o on o.tag_id = n.tag_id
    where o.tag_id is null
        or (o.monitored, o.reason, o.revised_sampling_interval_ms, o.revised_queue_size)
            is distinct from (n.monitored, n.reason, n.sampling_ms, n.queue_size)
    on conflict (tag_id) do update
    set monitored = excluded.monitored, reason = excluded.reason,
        revised_sampling_interval_ms = excluded.revised_sampling_interval_ms,
        revised_queue_size = excluded.revised_queue_size, updated_at = now()
"""


async def record_connection(
    database: AsyncConnection[Any],
    connection_id: UUID,
    *,
    connected: bool,
    error: str | None,
    active: ActiveConnection | None = None,
) -> None:
    """Write how a connection is doing: last_connected_at when it is connected, last_error, and what is in use."""
    told = None if error is None else error.replace("\0", "␀")[:_MOST_ERROR_CHARACTERS]
    now = active if connected else None
    with translated("cannot record the state of a connection"):
        await database.execute(
            """
            update scada_connections
            set last_connected_at = case when %(connected)s then now() else last_connected_at end,
                last_error = %(error)s,
                active_endpoint_url = %(endpoint_url)s,
                active_security_mode = %(security_mode)s,
                active_security_policy = %(security_policy)s,
                revised_publishing_interval_ms = %(publishing_interval_ms)s,
                revised_lifetime_ms = %(lifetime_ms)s,
                monitored_tags = %(monitored)s
            where id = %(id)s
            """,
            {
                "id": connection_id,
                "connected": connected,
                "error": told,
                "endpoint_url": now and now.endpoint_url,
                "security_mode": now and now.security_mode,
                "security_policy": now and now.security_policy,
                "publishing_interval_ms": now and now.revised_publishing_interval_ms,
                "lifetime_ms": now and now.revised_lifetime_ms,
                "monitored": now and now.monitored,
            },
        )


async def record_tag_states(
    database: AsyncConnection[Any],
    tag_id: NDArray[np.int32],
    *,
    monitored: NDArray[np.bool_],
    reason: NDArray[np.uint8],
    reasons: Sequence[str],
    sampling_ms: NDArray[np.floating[Any]],
    queue_size: NDArray[np.uint32],
) -> int:
    """Write how each of these tags is read now; return how many rows that changed.

    `reason` is a place in `reasons`; a place outside of it, NaN in `sampling_ms` and 0 in `queue_size` mean that there
    is none. All arrays have the shape of `tag_id`.
    """
    with translated("cannot record how the tags are read"):
        async with database.cursor() as cursor:
            take_packed_arrays(cursor)
            await cursor.execute(
                _RECORD_TAGS,
                {
                    "reasons": list(reasons),
                    "tag_id": packed(tag_id),
                    "monitored": packed(monitored),
                    "reason": packed(reason),
                    "sampling_ms": packed(sampling_ms.astype(np.float64)),
                    "queue_size": packed(queue_size),
                },
            )
            return cursor.rowcount


async def list_tag_states(database: AsyncConnection[Any], tag_ids: Sequence[int]) -> dict[int, TagState]:
    """Return how tags are read now, by tag_id; one that the engine has not come to is not in it.

    No tag of a connection that is not connected is read, whatever was true before.
    """
    with translated("cannot list how the tags are read"):
        async with database.cursor() as cursor:
            await cursor.execute(
                """
                select s.tag_id, s.monitored and c.active_endpoint_url is not null,
                    case when c.active_endpoint_url is null then %(not_connected)s else s.reason end,
                    s.revised_sampling_interval_ms, s.revised_queue_size, s.updated_at
                from tag_states s
                join tag_mappings t using (tag_id)
                join scada_connections c on c.id = t.connection_id
                where s.tag_id = any(%(tag_ids)s)
                """,
                {"tag_ids": list(tag_ids), "not_connected": _NOT_CONNECTED},
            )
            names = (
                "monitored",
                "reason",
                "revised_sampling_interval_ms",
                "revised_queue_size",
                "updated_at",
            )
            return {row[0]: TagState(**dict(zip(names, row[1:], strict=True))) async for row in cursor}
