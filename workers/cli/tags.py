"""`scada-engine tags import|list`: which nodes of a connection are read. The CSV file's rules are in tags_csv.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import asdict, fields
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from engine import catalog
from engine.catalog.rules import check_tags
from engine.errors import InvalidInput
from engine.settings import Settings
from workers.cli.databases import (
    all_connections,
    all_wells,
    find_connection,
    tag_pages,
    tenant_database,
)
from workers.cli.options import json_option, tenant_option, with_settings
from workers.cli.output import console, note, print_json, print_table, printable
from workers.cli.tags_csv import Problem, TagFile, read_tags

if TYPE_CHECKING:
    from rich.progress import TaskID

_MOST_PROBLEMS_SHOWN = 100
# A table is held in memory to find how wide its columns are.
_MOST_TAGS_IN_TABLE = 10_000
# asdict copies what is in them, too, which takes longer than all the rest: there may be a million.
_TAG_FIELDS = tuple(field.name for field in fields(catalog.Tag))
_STATE_FIELDS = tuple(field.name for field in fields(catalog.TagState) if field.name != "updated_at")


@click.group(short_help="Import and list tags.")
def tags() -> None:
    """Import and list tags."""


@tags.command("import")
@click.argument("file", type=click.File("rb"))
@click.option("--connection", required=True, metavar="NAME|ID", help="The connection that reads them.")
@click.option("--dry-run", is_flag=True, help="Check the file, import nothing.")
@tenant_option
@json_option
@with_settings()
def import_tags(
    *, settings: Settings, file: BinaryIO, connection: str, dry_run: bool, tenant: str | None, as_json: bool
) -> None:
    """Import tags from a CSV file; - is stdin.

    All are imported, or none, and then every problem is named with its line and column. Columns: tag_name,
    opc_node_id; if wanted data_type (DOUBLE), unit, scaling_factor (1), offset (0), well (name or id; else the
    connection's), and to read a tag in another way than its connection: read_mode (subscribe, poll),
    publishing_interval_ms, sampling_interval_ms, queue_size, discard_oldest, deadband_type (Absolute, Percent),
    deadband_value, data_change_trigger, timestamps_to_return.
    """
    found = asyncio.run(_import(settings, tenant, connection, file, dry_run=dry_run))
    imported = 0 if dry_run or found.problems else len(found.tags)
    if as_json:
        problems = [asdict(problem) for problem in found.problems]
        print_json({"imported": imported, "problems": problems})
    else:
        _note_problems(file.name, found.problems)
    if found.problems:
        lines = len({problem.line for problem in found.problems})
        raise InvalidInput(str(file.name), f"{lines} {_plural('line', lines)} not fit, nothing was imported")
    if not as_json:
        count = len(found.tags)
        click.echo(f"{count} tags fit" if dry_run else f"imported {count} tags")


def _plural(word: str, count: int) -> str:
    return f"{word} does" if count == 1 else f"{word}s do"


def _note_problems(name: str, problems: list[Problem]) -> None:
    for problem in problems[:_MOST_PROBLEMS_SHOWN]:
        column = f"{printable(problem.column)}: " if problem.column else ""
        note(f"{name}:{problem.line}: {column}{printable(problem.message)}")
    if (more := len(problems) - _MOST_PROBLEMS_SHOWN) > 0:
        note(f"... and {more} more")


async def _import(
    settings: Settings, slug: str | None, connection: str, file: BinaryIO, *, dry_run: bool
) -> TagFile:
    async with tenant_database(settings, slug) as (tenant, database):
        target = find_connection(await all_connections(database), connection)
        wells = await all_wells(database)
        ids = {key: well.id for well in wells for key in (well.name, str(well.id))}
        with _bar() as show:
            found = read_tags(file, wells=ids, progress=partial(show, "reading"))
            count = len(found.tags)

            def checked(tags: int) -> None:
                show("checking", tags, count)

            try:
                if found.tags and (found.problems or dry_run):
                    # The rows that could be read may have problems of their own: all are told at once.
                    check_tags(found.tags, most=catalog.MOST_TAGS_PER_IMPORT, progress=checked)
                elif found.tags:
                    await catalog.import_tags(
                        database,
                        tenant.id,
                        target.id,
                        found.tags,
                        checked=checked,
                        written=lambda tags: show("importing", tags, count),
                    )
            except catalog.InvalidRows as exc:
                found.add_problems(exc.problems)
    return found


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None]]:
    """Show what is being done and how far it is, on a terminal."""
    bar_console = console(stderr=True)
    if not bar_console.is_terminal:
        yield lambda *_: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=bar_console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(doing: str, done: int, total: int) -> None:
            if doing not in tasks:
                tasks[doing] = bars.add_task(f"{doing:<9}")
            bars.update(tasks[doing], completed=done, total=total)

        yield show


@tags.command("list")
@click.option("--connection", metavar="NAME|ID", help="Only the tags of this connection.")
@click.option("--missing", is_flag=True, help="Only those that are not read now, with the reason.")
@click.option("--after", type=click.IntRange(0), metavar="TAG_ID", help="Go on behind this tag.")
@click.option(
    "--limit", type=click.IntRange(1), metavar="N", help="At most so many; --after goes on behind them."
)
@tenant_option
@json_option
@with_settings()
def list_all(
    *,
    settings: Settings,
    connection: str | None,
    missing: bool,
    after: int | None,
    limit: int | None,
    tenant: str | None,
    as_json: bool,
) -> None:
    """List a tenant's tags in the order of their tag ids, and how the engine reads each.

    state: read, or the reason why not; empty while the engine has not come to it. Then the server's sampling interval
    and queue. A table shows 10000 tags at most and says how to see those behind them; --json has no such limit.
    """
    if as_json:
        asyncio.run(_print_lines(settings, tenant, connection, missing=missing, after=after, limit=limit))
    else:
        asyncio.run(_print_tags(settings, tenant, connection, missing=missing, after=after, limit=limit))


async def _print_lines(
    settings: Settings,
    slug: str | None,
    connection: str | None,
    *,
    missing: bool,
    after: int | None,
    limit: int | None,
) -> None:
    """Print each tag as it comes: there may be a million."""
    rows = _rows(settings, slug, connection, missing=missing, after=after)
    left = limit
    async with aclosing(rows):
        async for row in rows:
            print_json(row)
            if left is not None and (left := left - 1) == 0:
                return


async def _print_tags(
    settings: Settings,
    slug: str | None,
    connection: str | None,
    *,
    missing: bool,
    after: int | None,
    limit: int | None,
) -> None:
    rows = _rows(settings, slug, connection, missing=missing, after=after)
    most = _MOST_TAGS_IN_TABLE if limit is None else limit
    shown: list[dict[str, Any]] = []
    more = False
    async with aclosing(rows):
        async for row in rows:
            if more := len(shown) == most:
                break
            shown.append(row)
    columns = ("tag_id", "well", "tag_name", "opc_node_id", "data_type", "unit", "scaling_factor", "offset")
    states = ("state", "sampling_ms", "queue")
    print_table(
        columns + states, [[*(row[column] for column in columns), *_state_cells(row)] for row in shown]
    )
    if more:
        note(f"these are the first {most}; --after {shown[-1]['tag_id']} shows those behind them")


def _state_cells(row: dict[str, Any]) -> tuple[object, ...]:
    state = "read" if row["monitored"] else row["reason"]
    return state, row["revised_sampling_interval_ms"], row["revised_queue_size"]


async def _rows(
    settings: Settings, slug: str | None, connection: str | None, *, missing: bool, after: int | None
) -> AsyncGenerator[dict[str, Any]]:
    """Yield what is shown of each tag, page by page."""
    async with tenant_database(settings, slug) as (_, database):
        connections = await all_connections(database)
        chosen = None if connection is None else find_connection(connections, connection).id
        wells = {well.id: well.name for well in await all_wells(database)}
        names = {entry.id: entry.name for entry in connections}
        async for page in tag_pages(database, connection_id=chosen, after=after):
            states = await catalog.list_tag_states(database, [tag.tag_id for tag in page])
            for tag in page:
                state = states.get(tag.tag_id)
                if missing and state is not None and state.monitored:
                    continue
                yield (
                    {name: getattr(tag, name) for name in _TAG_FIELDS}
                    | {"settings": tag.settings.chosen()}
                    | {"well": wells.get(tag.well_id), "connection": names.get(tag.connection_id)}
                    | _state(state)
                )


def _state(state: catalog.TagState | None) -> dict[str, Any]:
    if state is None:
        return dict.fromkeys(_STATE_FIELDS) | {"monitored": False}
    return {name: getattr(state, name) for name in _STATE_FIELDS}
