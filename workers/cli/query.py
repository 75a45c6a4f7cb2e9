"""`scada-engine query`: stored readings, from a running engine over gRPC. Owns how they are selected and printed."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import click

from engine.errors import InvalidInput, NotFound
from engine.query import Latest, TagName
from engine.readings import Batch, Kind, quality_of
from engine.settings import Settings
from workers.cli.moments import iso_us, parse_moment, to_us
from workers.cli.options import json_option, tenant_option, with_settings
from workers.cli.output import json_number, note, print_json, print_table
from workers.rpc.client import ReadingClient

_TABLE = ("time", "well", "tag", "value", "unit", "quality")
_CSV = ("time", "well", "tag", "tag_id", "opc_node_id", "value", "text_value", "unit", "status", "quality")


@dataclass(frozen=True, slots=True)
class Selection:
    """Which readings are wanted; `well` and `tags` as the user wrote them."""

    well: str | None
    tags: tuple[str, ...]
    from_us: int
    to_us: int
    latest: bool


@click.command(short_help="Show readings that the engine has stored.")
@click.option("--well", metavar="NAME|ID", help="Only this well; the beginning of its name is enough.")
@click.option(
    "--tag", "tags", metavar="NAME|ID", multiple=True, help="Only this tag: name, node id or tag_id."
)
@click.option(
    "--from", "from_text", default="-15m", show_default=True, help="Begin: -15m (s, m, h, d, w), ISO 8601."
)
@click.option("--to", "to_text", default="now", show_default=True, help="End, exclusive.")
@click.option(
    "--limit", default=1000, show_default=True, type=click.IntRange(0), help="Most readings; 0 is all."
)
@click.option("--latest", is_flag=True, help="Only the newest reading of each tag, whenever it was.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@click.option("--address", metavar="HOST:PORT", help="The engine's gRPC. [default: this machine's GRPC_PORT]")
@tenant_option
@json_option
@with_settings(database=False)
def query(
    *, settings: Settings, well: str | None, tags: tuple[str, ...], from_text: str, to_text: str, limit: int,
    latest: bool, as_csv: bool, as_json: bool, address: str | None, tenant: str | None,
) -> None:  # fmt: skip
    """Show readings that the engine has stored.

    Oldest first, from a running engine over gRPC. Times are UTC. --json prints one object a line; values that are no
    JSON numbers are "NaN", "Infinity" and "-Infinity".
    """
    if as_csv and as_json:
        raise click.UsageError("--csv and --json exclude each other")
    now = datetime.now(UTC)
    wanted = Selection(
        well,
        tags,
        from_us=to_us(parse_moment("--from", from_text, now=now)),
        to_us=to_us(parse_moment("--to", to_text, now=now)),
        latest=latest,
    )
    if wanted.from_us >= wanted.to_us:
        raise InvalidInput("--to", f"{iso_us(wanted.to_us)} is not after --from, {iso_us(wanted.from_us)}")
    show = _print_lines if as_json else _print_csv if as_csv else _print_people
    with ReadingClient(address or f"127.0.0.1:{settings.grpc_port}", tenant) as client:
        show(_limited(_rows(client, wanted), limit))


# The server names its own fields; whoever typed the command knows the options.
_OPTION_OF = {"start_time": "--from", "end_time": "--to"}


def _rows(client: ReadingClient, wanted: Selection) -> Iterator[dict[str, Any]]:
    newest = _of_well(client.latest(), wanted.well)
    chosen = [each for each in newest if _fits_tags(each.tag, wanted.tags)]
    _check_tags(newest, wanted.tags)
    if wanted.latest:
        for each in chosen:
            yield _row(each.tag, each.ts_us, each.status, each.value, each.text_value)
        return
    if not chosen:
        return
    tag_ids = [each.tag.tag_id for each in chosen]
    try:
        found = client.range(from_us=wanted.from_us, to_us=wanted.to_us, tag_ids=tag_ids)
    except InvalidInput as exc:
        option = _OPTION_OF.get(exc.field)
        if option is None:
            raise
        message = str(exc).removeprefix(f"{exc.field}: ")
        for field, name in _OPTION_OF.items():
            message = message.replace(field, name)
        raise InvalidInput(option, message) from exc
    try:
        for batch in found:
            yield from _batch_rows(batch, found.tags)
    finally:
        found.close()


def _of_well(newest: list[Latest], well: str | None) -> list[Latest]:
    """Return those of the well: 1. its id, 2. its whole name, 3. the beginning of its name and of no other."""
    if well is None:
        return newest
    with suppress(ValueError):
        well_id = UUID(well)
        return [each for each in newest if each.tag.well_id == well_id]
    if exact := [each for each in newest if each.tag.well_name == well]:
        return exact
    found = [each for each in newest if each.tag.well_name.casefold().startswith(well.casefold())]
    if len(names := sorted({each.tag.well_name for each in found})) > 1:
        raise InvalidInput("--well", f"{well!r} is the beginning of several: {', '.join(names[:10])}")
    if not found:
        raise NotFound("--well", f"no well {well!r} has a reading; `query --latest` shows those that have")
    return found


def _fits_tags(tag: TagName, tags: Sequence[str]) -> bool:
    return not tags or any(text in (tag.tag_name, tag.opc_node_id, str(tag.tag_id)) for text in tags)


def _check_tags(newest: Sequence[Latest], tags: Sequence[str]) -> None:
    for text in tags:
        if not any(_fits_tags(each.tag, [text]) for each in newest):
            raise NotFound("--tag", f"no tag {text!r} has a reading; `query --latest` shows those that have")


def _batch_rows(batch: Batch, tags: dict[int, TagName]) -> Iterator[dict[str, Any]]:
    columns = (batch.ts_us, batch.tag_id, batch.status, batch.value, batch.kind)
    for row, (time_us, tag_id, status, value, kind) in enumerate(
        zip(*(each.tolist() for each in columns), strict=True)
    ):
        number = value if kind & Kind.NUMBER else None
        yield _row(tags[tag_id], time_us, status, number, batch.texts.get(row))


def _row(tag: TagName, time_us: int, status: int, value: float | None, text: str | None) -> dict[str, Any]:
    return {
        "time": iso_us(time_us),
        "well": tag.well_name,
        "tag": tag.tag_name,
        "tag_id": tag.tag_id,
        "opc_node_id": tag.opc_node_id,
        "value": value,
        "text_value": text,
        "unit": tag.unit,
        "status": status,
        "quality": quality_of(status).label,
    }


def _limited(rows: Iterator[dict[str, Any]], limit: int) -> Iterator[dict[str, Any]]:
    for count, row in enumerate(rows):
        if limit and count == limit:
            note(f"these are the first {limit}; --limit 0 shows all")
            return
        yield row


def _print_people(rows: Iterable[dict[str, Any]]) -> None:
    shown = [
        row | {"value": row["value"] if row["text_value"] is None else row["text_value"]} for row in rows
    ]
    if shown:
        print_table(_TABLE, [[row[name] for name in _TABLE] for row in shown])
    else:
        note("there are no readings in this range")


def _print_lines(rows: Iterable[dict[str, Any]]) -> None:
    for row in rows:
        print_json(row | {"value": json_number(row["value"])})


def _print_csv(rows: Iterable[dict[str, Any]]) -> None:
    writer = csv.DictWriter(sys.stdout, _CSV)
    writer.writeheader()
    writer.writerows(rows)
