"""`scada-engine tenant take-over`: what the earlier system left in tenants' databases becomes ours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any

import click

from engine import catalog, seed_tables
from engine.database import connect
from engine.migrations import Which
from engine.migrations_newer import refuse_newer
from engine.settings import Settings
from workers.cli.databases import APPLICATION, find_tenant, master_database
from workers.cli.options import json_option, with_settings
from workers.cli.output import console, note, print_json

_Show = Callable[[str, seed_tables.Moved], None]


@dataclass(slots=True)
class _Result:
    slug: str
    taken: seed_tables.Taken
    readings: int
    left: dict[str, int]


@click.command("take-over")
@click.argument("slug", required=False)
@json_option
@with_settings()
def take_over(*, settings: Settings, slug: str | None, as_json: bool) -> None:
    """Convert what the earlier system left in a tenant's database, or in those of all active tenants.

    `migrate up` and `tenant add --dsn` have moved its tables aside, to names that begin with seed_, and copied its
    wells, connections and tags. This moves its readings into ours, a few megabytes in each transaction, the newest
    first. The engine may run meanwhile, and the command may be stopped at any moment and started again: each reading is
    in one table at any moment, and the view scada_readings shows both.

    Readings that do not fit (a quality that is none of Good, Bad and Uncertain, an infinite time, a node id of more
    than 500 characters) stay in seed_readings and are counted. The exit status is 0 all the same.
    """
    with _bar() as show:
        results = asyncio.run(_take_over(settings, slug, show))
    for result in results:
        if as_json:
            print_json(_as_json(result))
        else:
            _print(result)
    if not results:
        note("no database has tables of the earlier system")


async def _take_over(settings: Settings, slug: str | None, show: _Show) -> list[_Result]:
    async with master_database(settings) as master:
        if slug is not None:
            tenants = [await find_tenant(master, settings, slug)]
        else:
            tenants = await catalog.list_tenants(master, settings)
    results = []
    for tenant in tenants:
        async with await connect(tenant.dsn, application=APPLICATION, autocommit=True) as database:
            await refuse_newer(database, Which.TENANT)
            if await seed_tables.is_waiting(database) or slug is not None:
                results.append(await _one(tenant, database, show))
    return results


async def take_over_catalog(tenant: catalog.Tenant) -> None:
    """Copy wells, connections and tags right after a migration has moved them aside: the engine goes on with them.

    The command does so again, should this not come to its end. Raises Database errors.
    """
    async with await connect(tenant.dsn, application=APPLICATION, autocommit=True) as database:
        taken = await seed_tables.take_over_catalog(database, tenant.id)
    for name in taken.without_password:
        note(_password_missing(tenant.slug, name))


async def _one(tenant: catalog.Tenant, database: Any, show: _Show) -> _Result:
    taken = await seed_tables.take_over_catalog(database, tenant.id)
    readings = 0
    async with aclosing(seed_tables.move_readings(database, tenant.id)) as steps:
        async for moved in steps:
            readings = moved.readings
            show(tenant.slug, moved)
    return _Result(tenant.slug, taken, readings, await seed_tables.left_over(database))


@contextmanager
def _bar() -> Iterator[_Show]:
    bar_console = console(stderr=True)
    if not bar_console.is_terminal:
        yield lambda *_: None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=bar_console, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def show(slug: str, moved: seed_tables.Moved) -> None:
            if slug not in tasks:
                tasks[slug] = bars.add_task("")
            bars.update(
                tasks[slug],
                completed=moved.done_bytes,
                total=max(moved.total_bytes, 1),
                description=f"{slug}: {moved.readings} readings",
            )

        yield show


def _print(result: _Result) -> None:
    taken = result.taken
    click.echo(
        f"{result.slug}: took over {taken.wells} wells, {taken.connections} connections, {taken.tags} tags, "
        f"{result.readings} readings"
    )
    for name in taken.without_password:
        note(_password_missing(result.slug, name))
    for column, count in sorted(result.left.items()):
        said = f"{column} does not fit" if column else "not converted yet"
        note(f"{result.slug}: {count} readings stay in seed_readings: {said}")


def _password_missing(slug: str, name: str) -> str:
    return f"{slug}: connection {name!r} is disabled until its password is set: connection set --enable"


def _as_json(result: _Result) -> dict[str, Any]:
    return {
        "tenant": result.slug,
        "wells": result.taken.wells,
        "connections": result.taken.connections,
        "tags": result.taken.tags,
        "without_password": result.taken.without_password,
        "readings": result.readings,
        "left": result.left,
    }
