"""`scada-engine migrate up|status`: the master's schema and every tenant's. engine.migrations does the work."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from engine import catalog
from engine.errors import DatabaseError, MigrationError, ScadaError
from engine.migrations import Outcome, Progress, ProgressCallback, State, Target, Which, migrate_all, status
from engine.settings import Settings
from workers.cli.databases import find_tenant, master_database
from workers.cli.options import json_option, with_settings
from workers.cli.output import console, note, print_json, print_table

tenant_choice = click.option("--tenant", "slug", metavar="SLUG", help="Only this tenant, beside the master.")


@click.group(short_help="Bring databases to this version's schema.")
def migrate() -> None:
    """Bring databases to this version's schema."""


@migrate.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be applied.")
@tenant_choice
@json_option
@with_settings()
def up(*, settings: Settings, dry_run: bool, slug: str | None, as_json: bool) -> None:
    """Apply what is missing to the master and all active tenants.

    They are migrated in parallel. A tenant that fails does not stop the others; it is named, and the exit status is 4.
    """
    with _progress_bars(shown=not as_json) as progress:
        outcomes = asyncio.run(_up(settings, slug, dry_run=dry_run, progress=progress))
    if as_json:
        for outcome in outcomes:
            print_json(_as_json(outcome))
    else:
        _print_outcomes(outcomes, dry_run=dry_run)
    if failed := [outcome.label for outcome in outcomes if outcome.error]:
        raise MigrationError(f"{len(failed)} of {len(outcomes)} databases failed: {', '.join(failed[:20])}")


async def _up(
    settings: Settings, slug: str | None, *, dry_run: bool, progress: ProgressCallback | None
) -> list[Outcome]:
    async def tenants() -> list[Target]:
        return await _targets(settings, slug)

    return await migrate_all(settings.database_url, tenants, dry_run=dry_run, progress=progress)


async def _targets(settings: Settings, slug: str | None) -> list[Target]:
    async with master_database(settings) as master:
        if slug is not None:
            tenants = [await find_tenant(master, settings, slug, older_master=True)]
        else:
            tenants = await catalog.list_tenants(master, settings, older_master=True)
    return [Target(tenant.slug, tenant.dsn, Which.TENANT) for tenant in tenants]


@migrate.command("status")
@tenant_choice
@json_option
@with_settings()
def show_status(*, settings: Settings, slug: str | None, as_json: bool) -> None:
    """Show which migrations each database has.

    The exit status is 4 when one cannot be read, or holds something that this engine does not know.
    """
    found, failures = asyncio.run(_status(settings, slug))
    if as_json:
        for row in found:
            print_json(row)
    else:
        columns = ("database", "version", "name", "state", "applied_at", "engine_version")
        print_table(columns, [[row[column] for column in columns] for row in found])
    for label, error in failures:
        note(f"{label}: {error}")
    foreign = {str(row["database"]) for row in found if row["state"] in (State.CHANGED, State.UNKNOWN)}
    if bad := sorted(foreign | {label for label, _ in failures}):
        raise MigrationError(f"not in order: {', '.join(bad[:20])}")


async def _status(
    settings: Settings, slug: str | None
) -> tuple[list[dict[str, Any]], list[tuple[str, ScadaError]]]:
    found: list[dict[str, Any]] = []
    failures: list[tuple[str, ScadaError]] = []
    targets = [Target("master", settings.database_url, Which.MASTER)]
    try:
        targets += await _targets(settings, slug)
    except DatabaseError as exc:
        failures.append(("tenants", exc))
    for target in targets:
        try:
            lines = await status(target.dsn, target.which)
        except (DatabaseError, MigrationError) as exc:
            failures.append((target.label, exc))
            continue
        found += [
            {
                "database": target.label,
                "version": line.version,
                "name": line.name,
                "state": str(line.state),
                "applied_at": line.applied_at and line.applied_at.isoformat(timespec="seconds"),
                "engine_version": line.engine_version,
            }
            for line in lines
        ]
    return found, failures


def _as_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "database": outcome.label,
        "applied": outcome.applied,
        "warnings": outcome.warnings,
        "seconds": round(outcome.seconds, 3),
        "error": outcome.error and str(outcome.error),
    }


def _print_outcomes(outcomes: Sequence[Outcome], *, dry_run: bool) -> None:
    for outcome in outcomes:
        verb = "would apply" if dry_run else "applied"
        done = f"{verb} {', '.join(outcome.applied)}" if outcome.applied else "nothing to do"
        if outcome.error is None or outcome.applied:
            click.echo(f"{outcome.label}: {done}" + ("" if dry_run else f" ({outcome.seconds:.1f} s)"))
        for warning in outcome.warnings:
            note(f"{outcome.label}: warning: {warning}")
        if outcome.error is not None:
            note(f"{outcome.label}: failed: {outcome.error}")


@contextmanager
def _progress_bars(*, shown: bool) -> Iterator[ProgressCallback | None]:
    """Show a bar for each database at work, on a terminal only; one that is done makes room."""
    bars_console = console(stderr=True)
    if not shown or not bars_console.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn  # noqa: PLC0415
    from rich.progress import Progress as Bars  # noqa: PLC0415

    tasks: dict[str, TaskID] = {}
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Bars(*columns, console=bars_console, transient=True) as bars:

        def show(progress: Progress) -> None:
            if progress.label not in tasks:
                tasks[progress.label] = bars.add_task(progress.label)
            task = tasks[progress.label]
            doing = f"{progress.label}: {progress.current}" if progress.current else progress.label
            bars.update(
                task,
                description=doing,
                completed=progress.done,
                total=progress.total,
                visible=progress.current is not None,
            )

        yield show
