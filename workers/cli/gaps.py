"""`scada-engine gaps list`: intervals in which readings are missing and could not be recovered."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import click

from engine.query import ReadingGap, list_gaps
from engine.settings import Settings
from workers.cli.databases import find_well, tenant_database
from workers.cli.moments import iso_us, parse_moment, to_us
from workers.cli.options import json_option, tenant_option, with_settings
from workers.cli.output import note, print_json, print_table

_COLUMNS = ("from", "to", "lasted_s", "well", "tag", "cause")
_PAGE_ROWS = 10_000


@click.group(short_help="List intervals in which readings are missing.")
def gaps() -> None:
    """List intervals in which readings are missing."""


@gaps.command("list")
@click.option("--from", "start", default="-7d", show_default=True, metavar="TIME", help="From when on.")
@click.option("--to", "end", default="now", show_default=True, metavar="TIME", help="Until when.")
@click.option("--well", metavar="NAME|ID", help="Of this well only.")
@click.option("--tag", "tag_ids", type=int, multiple=True, metavar="TAG_ID", help="Of this tag; repeatable.")
@click.option("--limit", default=1_000, show_default=True, type=click.IntRange(0), help="At most; 0: all.")
@tenant_option
@json_option
@with_settings()
def list_all(*, settings: Settings, tenant: str | None, as_json: bool, limit: int, **selection: Any) -> None:
    """List the gaps that overlap a time range.

    A gap lies between two readings that are there. It is recorded when a connection was lost for longer than the server
    kept what was missed (outage), when the engine did not run (restart), when a message never came (missing_message),
    or when the server's queue for a tag was full (overflow), unless the server's history could fill it.

    After the cause journal, readings that were already acknowledged may be missing: a part of the engine's own journal
    was lost or damaged. Any tag may have had readings in it, so each has such a gap, from its last reading before the
    lost part to the end of it. `quarantine list --reason journal` names the file in which the damaged bytes are kept.
    """
    found = asyncio.run(_list(settings, tenant, limit, **selection))
    shown = [_shown(gap) for gap in found[: limit or None]]
    if as_json:
        for row in shown:
            print_json(row)
    elif shown:
        print_table(_COLUMNS, [[row[name] for name in _COLUMNS] for row in shown])
    else:
        note("there are no gaps in this range")
    if limit and len(found) > limit:
        note(f"these are the first {limit}; --limit 0 shows all")


async def _list(
    settings: Settings,
    slug: str | None,
    limit: int,
    *,
    start: str,
    end: str,
    well: str | None,
    tag_ids: tuple[int, ...],
) -> list[ReadingGap]:
    """Return one gap more than `limit`, if there is one."""
    now = datetime.now(UTC)
    from_us = to_us(parse_moment("--from", start, now=now))
    until_us = to_us(parse_moment("--to", end, now=now))
    found: list[ReadingGap] = []
    async with tenant_database(settings, slug) as (_, database):
        well_id = None if well is None else await find_well(database, well)
        while not limit or len(found) <= limit:
            page = await list_gaps(
                database,
                from_us=from_us,
                to_us=until_us,
                tag_ids=tag_ids or None,
                well_id=well_id,
                limit=_PAGE_ROWS,
                after=found[-1].place if found else None,
                most_days=settings.max_query_days,
            )
            found += page
            if len(page) < _PAGE_ROWS:
                break
    return found


def _shown(gap: ReadingGap) -> dict[str, Any]:
    return {
        "from": iso_us(gap.from_us),
        "to": iso_us(gap.to_us),
        "lasted_s": round((gap.to_us - gap.from_us) / 1e6, 3),
        "well": gap.well_name,
        "tag": gap.tag_name,
        "tag_id": gap.tag_id,
        "opc_node_id": gap.opc_node_id,
        "cause": gap.cause,
        "recorded_at": gap.recorded_at,
    }
