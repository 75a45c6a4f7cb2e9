"""Which rows of the quarantine a command means: its options, and the Selection that they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from engine.errors import InvalidInput, NotFound
from engine.quarantine import Reason, Selection, list_quarantined
from workers.cli.databases import all_tags, find_well
from workers.cli.moments import parse_moment
from workers.cli.options import Command

if TYPE_CHECKING:
    from psycopg import AsyncConnection


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the options choose, as they were typed."""

    ids: tuple[int, ...]
    tags: tuple[str, ...]
    well: str | None
    reason: str | None
    start: str | None
    end: str | None

    def is_everything(self) -> bool:
        """Tell whether nothing limits it."""
        return self == Chosen((), (), None, None, None, None)

    async def selection(self, database: AsyncConnection) -> Selection:
        """Look up tags and well; raises InvalidInput and NotFound by the names of the options."""
        now = datetime.now(UTC)
        since = None if self.start is None else parse_moment("--from", self.start, now=now)
        until = None if self.end is None else parse_moment("--to", self.end, now=now)
        if since is not None and until is not None and since >= until:
            raise InvalidInput("--to", f"{until.isoformat()} is not after --from, {since.isoformat()}")
        selection = Selection(
            ids=self.ids or None,
            tag_ids=await _tag_ids(database, self.tags) if self.tags else None,
            well_id=None if self.well is None else await find_well(database, self.well),
            reason=None if self.reason is None else Reason(self.reason),
            since=since,
            until=until,
        )
        await self._check_ids(database)
        return selection

    async def _check_ids(self, database: AsyncConnection) -> None:
        if not self.ids:
            return
        wanted = Selection(ids=self.ids)
        found = {row.id for row in await list_quarantined(database, wanted, limit=len(self.ids))}
        for row_id in self.ids:
            if row_id not in found:
                raise NotFound("--id", f"there is no quarantined row {row_id}")


async def _tag_ids(database: AsyncConnection, wanted: tuple[str, ...]) -> list[int]:
    """Return the tags with these names, node ids or numbers; a number may be a deleted tag's."""
    known = await all_tags(database)
    ids: set[int] = set()
    for text in wanted:
        fitting = {tag.tag_id for tag in known if text in (tag.tag_name, tag.opc_node_id)}
        if not fitting and text.isdecimal():
            fitting = {int(text)}
        if not fitting:
            raise NotFound("--tag", f"there is no tag {text!r}; `tags list` shows them")
        ids |= fitting
    return sorted(ids)


def choosing_options(function: Command) -> Command:
    """Give a command the options that choose rows, passed as `chosen`."""

    @click.option(
        "--id", "ids", type=click.IntRange(1), multiple=True, metavar="ID", help="This row; repeatable."
    )
    @click.option(
        "--tag",
        "tags",
        multiple=True,
        metavar="NAME|ID",
        help="Of this tag: name, node id or tag_id; repeatable.",
    )
    @click.option("--well", metavar="NAME|ID", help="Of this well only.")
    @click.option(
        "--reason", type=click.Choice([str(reason) for reason in Reason]), help="With this reason only."
    )
    @click.option(
        "--from",
        "start",
        metavar="TIME",
        help="Quarantined at this time or later: -15m (s, m, h, d, w), ISO 8601.",
    )
    @click.option("--to", "end", metavar="TIME", help="Quarantined before this time.")
    @wraps(function)
    def command(
        *args: Any, ids: tuple[int, ...], tags: tuple[str, ...], well: str | None, reason: str | None,
        start: str | None, end: str | None, **parameters: Any,
    ) -> Any:  # fmt: skip
        return function(*args, chosen=Chosen(ids, tags, well, reason, start, end), **parameters)

    return command
