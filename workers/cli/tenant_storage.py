"""`scada-engine tenant storage`: how much a tenant's database holds, how far its rollups are, and what is kept."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import click

from engine.errors import InvalidInput
from engine.settings import Settings
from engine.store.modes import StorageMode, detect_mode
from engine.store.session import Session
from engine.upkeep import (
    Policies,
    StorageFigures,
    change_policies,
    length_text,
    read_figures,
    read_policies,
)
from workers.cli.databases import tenant_database
from workers.cli.options import Command, json_option, with_settings
from workers.cli.output import note, print_json, print_table

_COLUMNS = (
    "table", "rows (about)", "size", "chunks", "compressed", "dropped after", "compressed after",
)  # fmt: skip
_KEEPS = {
    "readings": "keep_readings",
    "rollups_1m": "keep_1m",
    "rollups_1h": "keep_1h",
    "rollups_1d": "keep_1d",
}
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_LENGTH = re.compile(r"([0-9]{1,6})([mhdw])")

_Changes: TypeAlias = dict[str, timedelta | None]


def parse_length(field: str, text: str) -> timedelta | None:
    """Return a length of time such as 90m, 6h, 400d or 2w; None for `never`. Raises InvalidInput, naming `field`."""
    if text == "never":
        return None
    if found := _LENGTH.fullmatch(text):
        return int(found[1]) * _UNITS[found[2]]
    raise InvalidInput(field, f"{text!r} is not a length of time: write 400d (m, h, d, w), or never")


def _keep_option(name: str, what: str) -> Callable[[Command], Command]:
    return click.option(
        f"--{name}", metavar="LENGTH", help=f"Drop {what} when they are older; never: keep them."
    )


@click.command("storage")
@click.argument("slug")
@_keep_option("keep-readings", "readings")
@_keep_option("keep-1m", "rollups of a minute")
@_keep_option("keep-1h", "rollups of an hour")
@_keep_option("keep-1d", "rollups of a day")
@click.option(
    "--compress-after",
    metavar="LENGTH",
    help="Compress chunks of readings so long after their end, in columnstore mode; never: leave them.",
)
@click.option("--yes", is_flag=True, help="Do not ask before less is kept.")
@json_option
@with_settings()
def storage(*, settings: Settings, slug: str, yes: bool, as_json: bool, **lengths: str | None) -> None:
    """Show how a tenant's readings are stored, and change how long they are kept.

    A LENGTH is 90m, 6h, 400d, 2w or never. What is kept is kept for whole days (UTC), and a rollup as long as what it
    is made of, or longer. The running engine drops and compresses within upkeep.policies_interval_s (an hour). Where
    less would be kept than before it asks first, unless --yes is given: what is dropped is gone for good.

    \b
    pending  Minutes that have changed since their rollup was computed. The views readings_1m,
             readings_1h and readings_1d compute them from the readings: they are right all the time.
    lag      How long the oldest of them that is due has waited. Above some minutes: look at
             scada_upkeep_failures_total and the engine's log.
    """
    changes = {name: parse_length(_flag(name), text) for name, text in lengths.items() if text is not None}
    asyncio.run(_storage(settings, slug, changes, yes=yes, as_json=as_json))


async def _storage(settings: Settings, slug: str, changes: _Changes, *, yes: bool, as_json: bool) -> None:
    async with tenant_database(settings, slug) as (tenant, database):
        if changes:
            try:
                old = await read_policies(database)
                if shorter := _shorter(old, old.changed(changes)):
                    _confirm(tenant.slug, shorter, yes=yes, as_json=as_json)
                await change_policies(database, changes)
            except InvalidInput as exc:
                message = str(exc).removeprefix(f"{exc.field}: ")
                raise InvalidInput(_flag(exc.field), message) from exc
        mode = await detect_mode(Session(database, "cannot find out the storage mode"))
        policies = await read_policies(database)
        figures = await read_figures(database, delay_s=settings.upkeep.rollup_delay_s)
    if as_json:
        print_json(_as_json(tenant.slug, mode, policies, figures))
    else:
        _print(tenant.slug, mode, policies, figures)
    if "compress_after" in changes and mode is not StorageMode.COLUMNSTORE:
        note(f"nothing is compressed in {mode} mode; --compress-after is kept for when that changes")


def _flag(field: str) -> str:
    return field if field.startswith("--") else "--" + field.replace("_", "-")


def _shorter(old: Policies, new: Policies) -> _Changes:
    """Return what would be kept for less time than before, and for how long now."""
    return {
        name: getattr(new, name)
        for name in _KEEPS.values()
        if (getattr(new, name) or timedelta.max) < (getattr(old, name) or timedelta.max)
    }


def _confirm(slug: str, shorter: _Changes, *, yes: bool, as_json: bool) -> None:
    if yes:
        return
    now = datetime.now(UTC)
    drops = ", ".join(
        f"{table} before {now - length:%Y-%m-%d}"
        for table, name in _KEEPS.items()
        if (length := shorter.get(name)) is not None
    )
    if as_json or not sys.stdin.isatty():
        raise InvalidInput("--yes", f"nobody can be asked here; add it to drop, of tenant {slug}, {drops}")
    if not click.confirm(f"Drop, of tenant {slug} and for good, {drops}?"):
        note("nothing was changed")
        raise click.exceptions.Exit(1)


def _print(slug: str, mode: StorageMode, policies: Policies, figures: StorageFigures) -> None:
    click.echo(f"tenant {slug}: {mode} mode")
    waits = f"the oldest that is due has waited {figures.lag_s:.0f} s" if figures.lag_s else "none is due"
    click.echo(f"rollups: {figures.pending_minutes} minutes pending, {waits}")
    since = (
        f"before {figures.readings_from:%Y-%m-%d} were dropped" if figures.readings_from else "none dropped"
    )
    click.echo(f"readings: {since}\n")
    rows = []
    for table in figures.tables:
        of_chunks = (table.chunks, table.compressed_chunks) if table.is_hypertable else (None, None)
        kept = getattr(policies, _KEEPS[table.name])
        after = policies.compress_after_of(table.name) if table.compresses else None
        compressed = length_text(after) if table.compresses else None
        rows.append(
            (table.name, table.rows, _size(table.size_bytes), *of_chunks, length_text(kept), compressed)
        )
    print_table(_COLUMNS, rows)


def _as_json(slug: str, mode: StorageMode, policies: Policies, figures: StorageFigures) -> dict[str, Any]:
    return {
        "tenant": slug,
        "mode": str(mode),
        "pending_minutes": figures.pending_minutes,
        "rollup_lag_s": round(figures.lag_s, 3),
        "readings_from": figures.readings_from,
        # As the flags take them.
        "policies": {name: length_text(getattr(policies, name)) for name in asdict(policies)},
        "tables": [asdict(table) for table in figures.tables],
    }


def _size(size_bytes: float) -> str:
    """Return a size in the units that PostgreSQL and df -h use: 1 kB is 1024 bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1_024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1_024
    return f"{size_bytes:.1f} TB"
