"""How long what is kept, and when chunks are compressed: one row in the tenant's database. None: for ever, never."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from engine.database import translated
from engine.errors import DatabaseNotMigrated, InvalidInput

if TYPE_CHECKING:
    from psycopg import AsyncConnection

# 273 years; timestamps before that are no use, and far from where they end.
_MOST = timedelta(days=100_000)
_DAY = timedelta(days=1)
_READ = """
select extract(epoch from keep_readings)::bigint, extract(epoch from keep_1m)::bigint,
    extract(epoch from keep_1h)::bigint, extract(epoch from keep_1d)::bigint,
    extract(epoch from compress_after)::float8
from storage_policies
"""
_WRITE = """
update storage_policies set keep_readings = make_interval(days => %s), keep_1m = make_interval(days => %s),
    keep_1h = make_interval(days => %s), keep_1d = make_interval(days => %s), compress_after = %s
"""


@dataclass(frozen=True, slots=True)
class Policies:
    """What storage_policies says. What is kept is kept for whole days (UTC), and a rollup as long as what it is of."""

    keep_readings: timedelta | None = None
    keep_1m: timedelta | None = None
    keep_1h: timedelta | None = None
    keep_1d: timedelta | None = None
    compress_after: timedelta | None = timedelta(hours=6)
    """After a chunk's end; columnstore mode only."""

    def changed(self, changes: Mapping[str, timedelta | None]) -> Policies:
        """Return the policies with some changed. Raises InvalidInput, with the field's name, for what does not fit."""
        for name, length in changes.items():
            if length is None:
                continue
            least = timedelta(0) if name == "compress_after" else _DAY
            if not least <= length <= _MOST:
                raise InvalidInput(name, f"{_said(length)} is not between {_said(least)} and {_said(_MOST)}")
            if name != "compress_after" and length % _DAY:
                raise InvalidInput(name, f"{_said(length)} is not a number of whole days")
        wanted = replace(self, **changes)
        kept = [(each.name, getattr(wanted, each.name)) for each in fields(Policies)][:4]
        for (finer, short), (coarser, long) in pairwise(kept):
            if (short or timedelta.max) > (long or timedelta.max):
                field, other = (coarser, finer) if coarser in changes else (finer, coarser)
                raise InvalidInput(
                    field,
                    f"{coarser} ({_said(long)}) would be shorter than {finer} ({_said(short)}): a rollup is kept"
                    f" as long as what it is made of, or longer; change {other}, too",
                )
        return wanted


async def read_policies(database: AsyncConnection[Any]) -> Policies:
    """Return the policies in force."""
    with translated("cannot read the storage policies"):
        row = await (await database.execute(_READ.encode())).fetchone()
    if row is None:
        raise DatabaseNotMigrated("storage_policies has no row; scada-engine migrate up makes it")
    return Policies(*(None if seconds is None else timedelta(seconds=seconds) for seconds in row))


async def change_policies(
    database: AsyncConnection[Any], changes: Mapping[str, timedelta | None]
) -> Policies:
    """Change some policies and return all; raises InvalidInput, having changed nothing, for what does not fit."""
    with translated("cannot change the storage policies"):
        async with database.transaction():
            await database.execute(b"select from storage_policies for update")
            wanted = (await read_policies(database)).changed(changes)
            *kept, compress_after = asdict(wanted).values()
            days = [None if length is None else length.days for length in kept]
            await database.execute(_WRITE.encode(), [*days, compress_after])
    return wanted


def _said(length: timedelta | None) -> str:
    if length is None:
        return "never"
    hours, rest = divmod(length, timedelta(hours=1))
    if rest:
        return str(length)
    return f"{hours // 24}d" if hours % 24 == 0 and hours else f"{hours}h"
