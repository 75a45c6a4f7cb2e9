"""`scada-engine tags import|list`: which nodes of a connection are read. The CSV file's rules are in tags_csv.py."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any, BinaryIO

import click

from engine import catalog
from engine.catalog.rules import check_tags
from engine.errors import InvalidInput
from engine.settings import Settings
from workers.cli.databases import (
    all_connections,
    all_tags,
    all_wells,
    find_connection,
    tag_states,
    tenant_database,
)
from workers.cli.options import json_option, tenant_option, with_settings
from workers.cli.output import note, print_json, print_table, printable
from workers.cli.tags_csv import Problem, TagFile, read_tags

_MOST_PROBLEMS_SHOWN = 100


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
        found = read_tags(file, wells={key: well.id for well in wells for key in (well.name, str(well.id))})
        try:
            if found.tags and (found.problems or dry_run):
                # The rows that could be read may have problems of their own: all are told at once.
                check_tags(found.tags)
            elif found.tags:
                await catalog.add_tags(database, tenant.id, target.id, found.tags)
        except catalog.InvalidRows as exc:
            found.add_problems(exc.problems)
    return found


@tags.command("list")
@click.option("--connection", metavar="NAME|ID", help="Only the tags of this connection.")
@click.option("--missing", is_flag=True, help="Only those that are not read now, with the reason.")
@tenant_option
@json_option
@with_settings()
def list_all(
    *, settings: Settings, connection: str | None, missing: bool, tenant: str | None, as_json: bool
) -> None:
    """List a tenant's tags, and how the engine reads each: the server's sampling interval and queue.

    state: read, or the reason why not; empty while the engine has not come to it.
    """
    rows = asyncio.run(_list(settings, tenant, connection))
    if missing:
        rows = [row for row in rows if not row["monitored"]]
    if as_json:
        for row in rows:
            print_json(row)
        return
    columns = ("tag_id", "well", "tag_name", "opc_node_id", "data_type", "unit", "scaling_factor", "offset")
    states = ("state", "sampling_ms", "queue")
    print_table(
        columns + states, [[*(row[column] for column in columns), *_state_cells(row)] for row in rows]
    )


def _state_cells(row: dict[str, Any]) -> tuple[object, ...]:
    state = "read" if row["monitored"] else row["reason"]
    return state, row["revised_sampling_interval_ms"], row["revised_queue_size"]


async def _list(settings: Settings, slug: str | None, connection: str | None) -> list[dict[str, Any]]:
    async with tenant_database(settings, slug) as (_, database):
        connections = await all_connections(database)
        chosen = None if connection is None else find_connection(connections, connection).id
        wells = {well.id: well.name for well in await all_wells(database)}
        names = {entry.id: entry.name for entry in connections}
        tags = await all_tags(database, connection_id=chosen)
        states = await tag_states(database, [tag.tag_id for tag in tags])
        return [
            asdict(tag)
            | {"settings": tag.settings.chosen()}
            | {"well": wells.get(tag.well_id), "connection": names.get(tag.connection_id)}
            | _state(states.get(tag.tag_id))
            for tag in tags
        ]


def _state(state: catalog.TagState | None) -> dict[str, Any]:
    if state is None:
        return {
            "monitored": False,
            "reason": None,
            "revised_sampling_interval_ms": None,
            "revised_queue_size": None,
        }
    return {name: value for name, value in asdict(state).items() if name != "updated_at"}
