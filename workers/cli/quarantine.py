"""`scada-engine quarantine list|retry|drop`: readings that a tenant's database could not take.

Owns how they are shown; which are meant is in quarantine_choice.py, what is done with them in engine.quarantine.
"""

from __future__ import annotations

import asyncio
import base64
import getpass
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC
from typing import Any

import click

from engine.errors import DatabaseError, InvalidInput
from engine.quarantine import (
    Caller,
    Dropped,
    Place,
    Quarantined,
    Reason,
    Retried,
    RetryRules,
    count_quarantined,
    drop,
    list_quarantined,
    retry,
    rows_now,
)
from engine.readings import quality_of
from engine.settings import Settings
from workers.cli.databases import tenant_database
from workers.cli.moments import iso_us
from workers.cli.options import json_option, tenant_option, with_settings
from workers.cli.output import console, json_number, note, print_json, print_table, printable
from workers.cli.quarantine_choice import Chosen, choosing_options

_COLUMNS = ("id", "well", "tag", "time", "value", "reason", "detail")
_PAGE_ROWS = 1_000
_TEXT_CHARACTERS = 40
_BAR_ROWS = 2_000
# Years 1 to 9999; what a broken clock says beyond is shown as the number that it is.
_YEARS_US = (-62_135_596_800_000_000, 253_402_300_799_999_999)


@click.group(short_help="Readings that the database could not take.")
def quarantine() -> None:
    """Readings that the database could not take.

    Such a reading is kept whole, with the reason, and never holds up the others:

    \b
    timestamp  its time is before 1990, or was later than the clock by more than
               reading_ahead_most_s: a server's clock that is wrong
    text       its text is not UTF-8, or has a NUL in it
    rejected   the database refused it; the detail has the database's words
    journal    no reading: a part of the engine's journal was lost or damaged.
               `gaps list` shows for which time readings may be missing

    `list` shows them, `retry` stores those that can be stored now, `drop` deletes them for good. All work on the
    tenant's database, also while the engine does not run. What to do when: docs/delivery.md.
    """


@quarantine.command("list")
@choosing_options
@click.option("--limit", default=100, show_default=True, type=click.IntRange(0), help="At most; 0: all.")
@tenant_option
@json_option
@with_settings()
def list_all(*, settings: Settings, tenant: str | None, as_json: bool, limit: int, chosen: Chosen) -> None:
    """List quarantined readings, the newest first.

    --from and --to mean when they came into the quarantine: the time of a reading itself (the column time) may be what
    is wrong with it. One that no calendar has is shown as microseconds since 1970. Long texts are cut, and what cannot
    be printed is escaped; --json has the beginning of the exact bytes (text_base64, up to 1 KiB).
    """
    shown: list[dict[str, Any]] = []
    more = asyncio.run(_list(settings, tenant, chosen, limit, print_json if as_json else shown.append))
    if shown:
        _print_people(shown)
    elif not as_json:
        note("nothing is quarantined" if chosen.is_everything() else "nothing that is quarantined fits")
    if more:
        note(f"these are the newest {limit} of {_counted(more)}; --limit 0 shows all")


async def _list(
    settings: Settings,
    slug: str | None,
    chosen: Chosen,
    limit: int,
    show: Callable[[dict[str, Any]], None],
) -> Counter[Reason] | None:
    """Show up to `limit` rows; where there are more, return how many there are."""
    async with tenant_database(settings, slug) as (_, database):
        selection = await chosen.selection(database)
        count, before = 0, None
        while not limit or count < limit:
            wanted = min(_PAGE_ROWS, limit - count) if limit else _PAGE_ROWS
            page = await list_quarantined(database, selection, limit=wanted, before=before)
            for row in page:
                show(_shown(row))
            if len(page) < wanted:
                return None
            count, before = count + len(page), page[-1].id
        if not await list_quarantined(database, selection, limit=1, before=before):
            return None
        return await count_quarantined(database, selection)


@quarantine.command("retry", short_help="Store quarantined readings that can be stored now.")
@choosing_options
@click.option(
    "--replace-invalid", is_flag=True, help="Store texts with U+FFFD (\ufffd) for what is not text."
)
@click.option("--any-time", is_flag=True, help="Store readings whose time is absurd, with that time.")
@tenant_option
@json_option
@with_settings()
def retry_chosen(
    *, settings: Settings, tenant: str | None, as_json: bool, chosen: Chosen, replace_invalid: bool, any_time: bool,
) -> None:  # fmt: skip
    """Store quarantined readings that can be stored now; all of them, unless options choose some.

    Each goes into the readings and out of the quarantine in one transaction, exactly once, a thousand at a time. What
    the database refuses again stays, with its new reason. What was done before an error or Ctrl-C is done; the same
    command goes on.

    What also stays: a reading whose time is before 1990, or later than now by more than reading_ahead_most_s, unless
    --any-time is given (each such day then gets a part of the table of its own, for good); a text that is not UTF-8 or
    has a NUL, unless --replace-invalid is given (the original bytes are lost with it); and notes of reason journal,
    which are no readings: drop them when they have been dealt with.
    """
    latest_us = time.time_ns() // 1_000 + int(settings.reading_ahead_most_s * 1e6)
    rules = RetryRules(latest_us=latest_us, any_time=any_time, replace_invalid=replace_invalid)
    stored, kept = asyncio.run(_retry(settings, tenant, chosen, rules))
    if as_json:
        print_json(
            {"stored": stored, "kept": kept.total(), "kept_by_reason": {str(k): n for k, n in kept.items()}}
        )
    elif not stored and not kept:
        note("nothing is quarantined" if chosen.is_everything() else "nothing that is quarantined fits")
    else:
        click.echo(f"stored {_readings(stored)}" + (f"; {_counted(kept)} stayed" if kept else ""))


async def _retry(
    settings: Settings, slug: str | None, chosen: Chosen, rules: RetryRules
) -> tuple[int, Counter[Reason]]:
    async with tenant_database(settings, slug) as (_, database):
        selection = await chosen.selection(database)
        place = await rows_now(database)
        if place is None:
            return 0, Counter()
        count = await count_quarantined(database, selection)
        done = Retried()

        def progress(now: Retried) -> None:
            nonlocal done
            done = now
            show(now.stored + now.kept.total())

        with _bar("trying again", count.total()) as show:
            try:
                await retry(database, selection, rules, place=place, progress=progress)
            except DatabaseError:
                note(f"stored {_readings(done.stored)} before this:")
                raise
        return done.stored, done.kept


@quarantine.command("drop")
@choosing_options
@click.option("--all", "everything", is_flag=True, help="Everything that is quarantined.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@tenant_option
@json_option
@with_settings()
def drop_chosen(
    *, settings: Settings, tenant: str | None, as_json: bool, chosen: Chosen, everything: bool, yes: bool
) -> None:
    """Delete quarantined readings for good. Nothing can bring them back.

    It shows how many they are and asks first, unless --yes is given. Options choose which; to mean all of them, say
    --all. Who dropped how many is written to the log (standard error). To keep what is dropped, save it before:
    `quarantine list --limit 0 --json > kept.jsonl`.
    """
    if everything and not chosen.is_everything():
        raise click.UsageError("--all and options that choose rows exclude each other")
    if not everything and chosen.is_everything():
        raise click.UsageError("say which rows: --id, --tag, --well, --reason, --from, --to; or --all")
    dropped = asyncio.run(
        _drop(settings, tenant, chosen, lambda slug, rows: yes or _confirmed(slug, rows, as_json))
    )
    if dropped is None:
        note("nothing was dropped")
        raise click.exceptions.Exit(1)
    if as_json:
        print_json({"dropped": dropped})
    elif not dropped:
        note("nothing that is quarantined fits")
    else:
        click.echo(f"dropped {_rows(dropped)}")


def _confirmed(slug: str, rows: Counter[Reason], as_json: bool) -> bool:
    if as_json or not sys.stdin.isatty():
        raise InvalidInput(
            "--yes", f"nobody can be asked here; add it to drop {_counted(rows)} of tenant {slug}"
        )
    return click.confirm(f"Drop {_counted(rows)} of tenant {slug}, for good?")


async def _drop(
    settings: Settings, slug: str | None, chosen: Chosen, confirmed: Callable[[str, Counter[Reason]], bool]
) -> int | None:
    """Return how many were dropped; None: they were not to be."""
    async with tenant_database(settings, slug) as (tenant, database):
        selection = await chosen.selection(database)
        # Before they are counted: what comes in while somebody thinks about the answer is not dropped unseen.
        place: Place | None = await rows_now(database)
        count = await count_quarantined(database, selection)
        if place is None or not count:
            return 0
        if not confirmed(tenant.slug, count):
            return None
        rows = 0

        def progress(now: Dropped) -> None:
            nonlocal rows
            rows = now.rows
            show(rows)

        with _bar("dropping", count.total()) as show:
            try:
                await drop(database, selection, caller=_caller(tenant.slug), place=place, progress=progress)
            except DatabaseError:
                note(f"dropped {_rows(rows)} before this:")
                raise
        return rows


@contextmanager
def _bar(what: str, rows: int) -> Iterator[Callable[[int], None]]:
    """Show how far it is, on a terminal, where there is much to do."""
    bar_console = console(stderr=True)
    if rows < _BAR_ROWS or not bar_console.is_terminal:
        yield lambda _: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=bar_console, transient=True) as bars:
        task = bars.add_task(what, total=rows)
        yield lambda done: bars.update(task, completed=done)


def _caller(slug: str) -> Caller:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = str(os.getuid())
    return Caller(slug, f"{user}@{socket.gethostname()}")


def _rows(count: int) -> str:
    return f"{count} quarantined row{'' if count == 1 else 's'}"


def _readings(count: int) -> str:
    return f"{count} reading{'' if count == 1 else 's'}"


def _counted(rows: Counter[Reason]) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in rows.most_common())
    return f"{_rows(rows.total())} ({reasons})"


def _shown(row: Quarantined) -> dict[str, Any]:
    text = None if row.text_begin is None else row.text_begin.decode("utf-8", "replace")
    return {
        "id": row.id,
        "quarantined_at": row.quarantined_at,
        "well": row.well_name,
        "tag": row.tag_name,
        "tag_id": row.tag_id,
        "opc_node_id": row.opc_node_id,
        "time": _iso(row.ts_us),
        "ts_us": row.ts_us,
        "status": None if row.status is None else row.status & 0xFFFF_FFFF,
        "quality": None if row.status is None else quality_of(row.status & 0xFFFF_FFFF).label,
        "value": json_number(row.value),
        "text": text,
        "text_base64": None if row.text_begin is None else base64.b64encode(row.text_begin).decode(),
        "text_bytes": row.text_nbytes,
        "reason": row.reason,
        "sqlstate": row.sqlstate,
        "detail": row.detail,
        "stream": row.stream,
        "sequence": row.sequence,
        "place": row.place,
    }


def _iso(ts_us: int | None) -> str | None:
    return None if ts_us is None or not _YEARS_US[0] <= ts_us <= _YEARS_US[1] else iso_us(ts_us)


def _print_people(rows: Sequence[dict[str, Any]]) -> None:
    """Print a table; on a terminal with what there is to say of a row in several lines, so that it can be read."""
    terminal = console()
    if not terminal.is_terminal:
        print_table(_COLUMNS, [[_cells(row)[name] for name in _COLUMNS] for row in rows])
        return
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("id", justify="right", no_wrap=True)
    table.add_column("reason, since", no_wrap=True)
    table.add_column("reading", overflow="fold")
    for row in rows:
        since = row["quarantined_at"].astimezone(UTC)
        told = Text("\n").join(
            (Text(row["reason"]), Text(f"{since:%Y-%m-%d}", "dim"), Text(f"{since:%H:%M:%S}Z", "dim"))
        )
        table.add_row(str(row["id"]), told, Text("\n".join(map(printable, _lines(row)))))
    terminal.print(table)


def _lines(row: dict[str, Any]) -> Iterator[str]:
    if row["tag_id"] is not None:
        tag = f"{row['well']}  {row['tag']}" if row["tag"] else f"tag {row['tag_id']}, which is not known"
        time_of_it = row["time"] or f"{row['ts_us']} microseconds since 1970"
        yield f"{tag}  {time_of_it}"
        number = None if row["value"] is None else f"value {printable(row['value'])}"
        text = None if row["text"] is None else f"text {_cut(row['text'])}"
        if number or text:
            yield ", ".join(filter(None, (number, text)))
    yield _cells(row)["detail"]


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    """Return what a table shows: texts cut, an unknown tag by its number, a time beyond the calendar as it is."""
    return row | {
        "tag": row["tag"] or row["tag_id"],
        "time": row["time"] or row["ts_us"],
        "value": row["value"] if row["text"] is None else _cut(row["text"]),
        "detail": row["detail"] + (f" ({row['sqlstate']})" if row["sqlstate"] else ""),
    }


def _cut(text: str) -> str:
    shown = printable(text[: _TEXT_CHARACTERS + 1])
    return shown if len(shown) <= _TEXT_CHARACTERS else f"{shown[:_TEXT_CHARACTERS]}..."
