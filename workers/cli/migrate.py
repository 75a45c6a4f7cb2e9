"""`scada-engine migrate up|status`: the master's schema and every tenant's. engine.migrations does the work."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import click

from engine import catalog
from engine.errors import DatabaseError, MigrationError, ScadaError
from engine.migrations import (
    DEFAULT_PARALLEL,
    MigrationStatus,
    Outcome,
    ProgressCallback,
    State,
    Target,
    Which,
    migrate_all,
    status,
)
from engine.settings import Settings
from workers.cli.databases import find_tenant, master_database
from workers.cli.migrate_progress import shown_progress
from workers.cli.options import json_option, with_settings
from workers.cli.output import note, print_json, print_table
from workers.cli.take_over import take_over_catalog

tenant_choice = click.option("--tenant", "slug", metavar="SLUG", help="Only this tenant, beside the master.")

parallel_choice = click.option(
    "--parallel",
    type=click.IntRange(1, 100),
    default=DEFAULT_PARALLEL,
    show_default=True,
    metavar="N",
    help="So many databases at a time; each takes one connection.",
)


@click.group(short_help="Bring databases to this version's schema.")
def migrate() -> None:
    """Bring databases to this version's schema."""


@migrate.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be applied.")
@tenant_choice
@parallel_choice
@json_option
@with_settings()
def up(*, settings: Settings, dry_run: bool, slug: str | None, parallel: int, as_json: bool) -> None:
    """Apply what is missing to the master and all active tenants.

    They are migrated in parallel. A tenant that fails does not stop the others; it is named, and the exit status is 4.
    """
    with nullcontext() if as_json else shown_progress() as progress:
        outcomes = asyncio.run(_up(settings, slug, parallel=parallel, dry_run=dry_run, progress=progress))
    if as_json:
        for outcome in outcomes:
            print_json(_as_json(outcome))
    else:
        _print_outcomes(outcomes, dry_run=dry_run)
    if failed := [outcome.label for outcome in outcomes if outcome.error]:
        raise MigrationError(f"{len(failed)} of {len(outcomes)} databases failed: {', '.join(failed[:20])}")


async def _up(
    settings: Settings,
    slug: str | None,
    *,
    parallel: int,
    dry_run: bool,
    progress: ProgressCallback | None,
) -> list[Outcome]:
    found: list[catalog.Tenant] = []

    async def tenants() -> list[Target]:
        found.extend(await _tenants(settings, slug))
        return _targets(found)

    outcomes = await migrate_all(
        settings.database_url, tenants, parallel=parallel, dry_run=dry_run, progress=progress
    )
    moved = {outcome.label for outcome in outcomes if outcome.moved_aside and outcome.error is None}
    for tenant in found:
        if tenant.slug in moved:
            await take_over_catalog(tenant)
    return outcomes


async def _tenants(settings: Settings, slug: str | None) -> list[catalog.Tenant]:
    async with master_database(settings, newer=True) as master:
        if slug is not None:
            return [await find_tenant(master, settings, slug, older_master=True)]
        return await catalog.list_tenants(master, settings, older_master=True)


def _targets(tenants: Sequence[catalog.Tenant]) -> list[Target]:
    return [Target(tenant.slug, tenant.dsn, Which.TENANT) for tenant in tenants]


@migrate.command("status")
@tenant_choice
@parallel_choice
@json_option
@with_settings()
def show_status(*, settings: Settings, slug: str | None, parallel: int, as_json: bool) -> None:
    """Show which migrations each database has.

    The exit status is 4 when one cannot be read, or holds something that this engine does not know.
    """
    found, failures = asyncio.run(_status(settings, slug, parallel))
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
    settings: Settings, slug: str | None, parallel: int
) -> tuple[list[dict[str, Any]], list[tuple[str, ScadaError]]]:
    found: list[dict[str, Any]] = []
    failures: list[tuple[str, ScadaError]] = []
    targets = [Target("master", settings.database_url, Which.MASTER)]
    try:
        targets += _targets(await _tenants(settings, slug))
    except DatabaseError as exc:
        failures.append(("tenants", exc))
    limit = asyncio.Semaphore(parallel)

    async def one(target: Target) -> list[MigrationStatus] | ScadaError:
        async with limit:
            try:
                return await status(target.dsn, target.which)
            except (DatabaseError, MigrationError) as exc:
                return exc

    for target, lines in zip(targets, await asyncio.gather(*map(one, targets)), strict=True):
        if isinstance(lines, ScadaError):
            failures.append((target.label, lines))
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
