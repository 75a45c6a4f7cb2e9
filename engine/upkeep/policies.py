"""How long what is kept, and when chunks are compressed: one row in the tenant's database. None: for ever, never."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from engine.database import translated
from engine.errors import DatabaseNotMigrated, InvalidInput
from engine.upkeep.tables import READINGS

if TYPE_CHECKING:
    from psycopg import AsyncConnection

# 273 years; timestamps before that are no use, and far from where they end.
_MOST = timedelta(days=100_000)
_DAY = timedelta(days=1)
_ROLLUPS_AFTER = timedelta(days=7)
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

    def compress_after_of(self, table: str) -> timedelta | None:
        """Return how long after its end a chunk of a table is compressed.

        Rollups are left alone for longer: they are written again when readings come late, and a row of a compressed
        chunk costs the decompression of its batch.
        """
        if self.compress_after is None or table == READINGS:
            return self.compress_after
        return max(self.compress_after, _ROLLUPS_AFTER)

    def changed(self, changes: Mapping[str, timedelta | None]) -> Policies:
        """Return the policies with some changed. Raises InvalidInput, with the field's name, for what does not fit."""
        for name, length in changes.items():
            if length is None:
                continue
            least = timedelta(0) if name == "compress_after" else _DAY
            if not least <= length <= _MOST:
                raise InvalidInput(
                    name,
                    f"{length_text(length)} is not between {length_text(least)} and {length_text(_MOST)}",
                )
            if name != "compress_after" and length % _DAY:
                raise InvalidInput(name, f"{length_text(length)} is not a number of whole days")
        wanted = replace(self, **changes)
        kept = [(each.name, getattr(wanted, each.name)) for each in fields(Policies)][:4]
        for (finer, short), (coarser, long) in pairwise(kept):
            if (short or timedelta.max) > (long or timedelta.max):
                field, other = (coarser, finer) if coarser in changes else (finer, coarser)
                raise InvalidInput(
                    field,
                    f"{coarser} ({length_text(long)}) would be shorter than {finer} ({length_text(short)}): a rollup"
                    f" is kept as long as what it is made of, or longer; change {other}, too",
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


def length_text(length: timedelta | None) -> str:
    """Return a length of time as the command line takes it: 400d, 6h, never."""
    if length is None:
        return "never"
    for unit, one in (("d", _DAY), ("h", timedelta(hours=1)), ("m", timedelta(minutes=1))):
        if length and length % one == timedelta(0):
            return f"{length // one}{unit}"
    return f"{length.total_seconds():g}s"
