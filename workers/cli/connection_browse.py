"""`scada-engine connection browse`: what is on an OPC UA server, as a tree, a table, JSON or a CSV file of tags.

Owns the command, how the nodes are shown, and what is said about those that are not. The walk is in opcua.browsing.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import defaultdict
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict, dataclass
from typing import IO, TYPE_CHECKING, Any

import click

from engine import catalog
from engine.errors import ConfigurationError, ScadaError
from engine.settings import Settings
from workers.cli.browse_tags import TagRows
from workers.cli.databases import tenant_database
from workers.cli.options import NO_DATABASE, json_option, tenant_option, with_settings
from workers.cli.output import note, print_json, print_table, printable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from workers.opcua.browsing.browse import BrowsedNode, Walk
    from workers.opcua.channel import Channel

_PROGRESS_S = 0.2
_CLOSE_S = 5.0
_TABLE = ("path", "node_class", "data_type", "unit", "value", "node_id")


@click.command("browse", short_help="Show what is on an OPC UA server.")
@click.argument("name", required=False)
@click.option(
    "--url", metavar="URL", help="A server that is no connection yet; without security, anonymously."
)
@click.option("--start", metavar="NODE", help="Node id or browse path to begin at.  [default: i=85, Objects]")
@click.option(
    "--depth", type=click.IntRange(0, 64), default=32, show_default=True, help="Levels below the start."
)
@click.option(
    "--limit", type=click.IntRange(1, 1_000_000), default=100_000, show_default=True, help="The most nodes."
)
@click.option("--variables-only", is_flag=True, help="Leave out what holds no value.")
@click.option("--properties", is_flag=True, help="Properties, too, such as units and ranges.")
@click.option("--values", is_flag=True, help="Read each variable's value and status.")
@click.option(
    "--csv",
    "csv_file",
    type=click.File("w", "utf-8"),
    metavar="FILE",
    help="Tags for `tags import`; - is stdout.",
)
@click.option("--table", "as_table", is_flag=True, help="A table instead of a tree.")
@click.option("--namespace-index", is_flag=True, help="Write ns=2 where the namespace's URI is known, too.")
@tenant_option
@json_option
@with_settings(database=False)
def browse(
    *, settings: Settings, tenant: str | None, name: str | None, url: str | None, start: str | None, depth: int,
    limit: int, properties: bool, values: bool, as_json: bool, csv_file: IO[str] | None, **how: bool,
) -> None:  # fmt: skip
    """Show what is on the server of connection NAME, or at --url: every node below --start, once.

    With --csv the variables become a file that `tags import` takes back after editing: unit and data type are what the
    server says.
    """
    from workers import logs  # noqa: PLC0415  (a tenth of a second that --help need not wait)
    from workers.opcua.browsing.browse import WalkLimits  # noqa: PLC0415

    if (name is None) == (url is None):
        raise click.UsageError("give the name of a connection, or --url")
    if as_json + (csv_file is not None) + how["as_table"] > 1:
        raise click.UsageError("--json, --csv and --table exclude each other")
    logs.configure(settings, process="command", index=0)
    shown: _Shown
    if as_json:
        shown = _Json(by_index=how["namespace_index"])
    elif csv_file is not None:
        shown = _Csv(csv_file, by_index=how["namespace_index"])
    elif how["as_table"]:
        shown = _Table(by_index=how["namespace_index"])
    else:
        shown = _Tree(by_index=how["namespace_index"])
    shown.variables_only = how["variables_only"]
    limits = WalkLimits(depth=depth, nodes=limit, references_per_node=limit)
    target = _Target(tenant=tenant, name=name or "", url=url)
    options = {"limits": limits, "properties": properties, "values": values}
    asyncio.run(_browse(settings, target, shown, start=start, options=options))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """Which server: a tenant's connection, or an address."""

    tenant: str | None
    name: str
    url: str | None


async def _browse(
    settings: Settings, target: _Target, shown: _Shown, *, start: str | None, options: dict[str, Any]
) -> None:
    from workers.opcua.browsing.browse import Walk  # noqa: PLC0415

    async with _channel(settings, target) as channel:
        walk = Walk(channel, **options)
        progress = _Progress(wanted=sys.stderr.isatty() and not (shown.streams and sys.stdout.isatty()))
        try:
            async with aclosing(walk.nodes(start)) as nodes:
                async for node in nodes:
                    shown.add(node)
                    progress.count(node)
        finally:
            progress.clear()
    shown.finish()
    _note_left_out(walk, shown)


@asynccontextmanager
async def _channel(settings: Settings, target: _Target) -> AsyncIterator[Channel]:
    """Open a session with the server that is meant; closed at the end."""
    from workers.opcua.channel import Channel  # noqa: PLC0415
    from workers.opcua.security.pki import Pki  # noqa: PLC0415

    if target.url is not None:
        channels = [Channel(target.url, settings.opcua)]
    else:
        if not settings.database_url:
            raise ConfigurationError(NO_DATABASE)
        async with tenant_database(settings, target.tenant) as (owner, database):
            wanted = await catalog.load_connection(
                database, owner.id, target.name, secrets_key=settings.secrets_key
            )
        pki = Pki.of(settings.opcua, owner.slug)
        urls = wanted.endpoint_urls
        channels = [Channel.for_connection(wanted, url, settings.opcua, pki) for url in urls]
    channel = await _first_open(channels)
    try:
        renewing = asyncio.create_task(channel.renew())
        try:
            yield channel
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
    finally:
        await channel.close(_CLOSE_S)


async def _first_open(channels: list[Channel]) -> Channel:
    """Return the first that opens, and say why others did not. Raises what the last one said."""
    for channel in channels:
        try:
            await channel.open()
        except ScadaError as exc:
            await channel.close(_CLOSE_S)
            if channel is channels[-1]:
                raise
            note(f"this address does not work, trying the next: {exc}")
        except BaseException:
            await channel.close(_CLOSE_S)
            raise
        else:
            return channel
    raise AssertionError("a connection has an address")


class _Progress:
    """A line on the terminal that counts nodes while the walk lasts."""

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted
        self._nodes = self._variables = 0
        self._said_s = 0.0

    def count(self, node: BrowsedNode) -> None:
        self._nodes += 1
        self._variables += node.variable is not None
        if self._wanted and time.monotonic() - self._said_s >= _PROGRESS_S:
            self._said_s = time.monotonic()
            click.echo(f"\r\x1b[K{self._nodes} nodes, {self._variables} variables", err=True, nl=False)

    def clear(self) -> None:
        if self._said_s:
            click.echo("\r\x1b[K", err=True, nl=False)


class _Shown:
    """What all forms of output share: which nodes they want, and in which form node ids are written."""

    streams = False
    variables_only = False

    def __init__(self, *, by_index: bool) -> None:
        self.by_index = by_index

    def add(self, node: BrowsedNode) -> None:
        """Take the next node."""
        if node.variable is not None or not self.variables_only:
            self.take(node)

    def take(self, node: BrowsedNode) -> None:
        """Show or keep a node that is wanted."""
        raise NotImplementedError

    def finish(self) -> None:
        """Show what was kept."""

    def node_id(self, node: BrowsedNode) -> str:
        """Return a node's id in the form that was asked for."""
        return node.node_id if self.by_index else node.node_id_by_uri

    def row(self, node: BrowsedNode) -> dict[str, Any]:
        """Return what is known of a node, in one level."""
        row = asdict(node)
        facts = row.pop("variable") or {}
        row["node_id"] = self.node_id(node)
        # The path says what is above; these two are in one form of node ids only.
        del row["node_id_by_uri"], row["parent"]
        return row | facts


class _Json(_Shown):
    streams = True

    def take(self, node: BrowsedNode) -> None:
        print_json(self.row(node))


class _Table(_Shown):
    def __init__(self, *, by_index: bool) -> None:
        super().__init__(by_index=by_index)
        self._rows: list[list[Any]] = []

    def take(self, node: BrowsedNode) -> None:
        row = self.row(node)
        row["data_type"] = _type(node)
        row["value"] = _value(node)
        self._rows.append([row.get(column) for column in _TABLE])

    def finish(self) -> None:
        used = [
            place
            for place, column in enumerate(_TABLE)
            if column != "value" or any(row[place] for row in self._rows)
        ]
        print_table([_TABLE[place] for place in used], [[row[place] for place in used] for row in self._rows])


class _Csv(_Shown):
    def __init__(self, file: IO[str], *, by_index: bool) -> None:
        super().__init__(by_index=by_index)
        self._file = file
        self.tags = TagRows(by_index=by_index)

    def take(self, node: BrowsedNode) -> None:
        self.tags.add(node)

    def add(self, node: BrowsedNode) -> None:
        # Folders, too: the names of tags are made of theirs.
        self.take(node)

    def finish(self) -> None:
        self.tags.write(self._file)
        if self._file.name != "<stdout>":
            note(
                f"wrote {len(self.tags.rows)} tags to {self._file.name}; edit it, then: scada-engine tags import"
            )


class _Tree(_Shown):
    def __init__(self, *, by_index: bool) -> None:
        super().__init__(by_index=by_index)
        self._start: BrowsedNode | None = None
        self._below: defaultdict[str, list[BrowsedNode]] = defaultdict(list)

    def add(self, node: BrowsedNode) -> None:
        self.take(node)

    def take(self, node: BrowsedNode) -> None:
        if node.parent is None:
            self._start = node
        else:
            self._below[node.parent].append(node)

    def finish(self) -> None:
        if self._start is None:
            return
        if self.variables_only:
            self._drop_empty()
        click.echo(self._line("", self._start))
        # Not by recursion: a tree may be as deep as --depth.
        stack = [("", child, place == 0) for place, child in self._children(self._start)]
        while stack:
            indent, node, last = stack.pop()
            click.echo(self._line(f"{indent}{'└── ' if last else '├── '}", node))
            deeper = f"{indent}{'    ' if last else '│   '}"
            stack += [(deeper, child, place == 0) for place, child in self._children(node)]

    def _children(self, node: BrowsedNode) -> list[tuple[int, BrowsedNode]]:
        return list(enumerate(reversed(self._below.get(node.node_id, ()))))

    def _drop_empty(self) -> None:
        """Keep variables, and what leads to one. Children were found after their parents."""
        everything = [node for below in self._below.values() for node in below]
        everything.sort(key=lambda node: -node.depth)
        for node in everything:
            if node.variable is None and not self._below.get(node.node_id):
                self._below[node.parent or ""].remove(node)

    def _line(self, branches: str, node: BrowsedNode) -> str:
        facts = [text for text in (_type(node), node.variable and node.variable.unit) if text]
        if value := _value(node):
            facts.append(f"= {value}")
        if node.variable is None and node.node_class != "Object":
            facts.append(node.node_class)
        name = printable(node.browse_name if node.parent else node.path)
        tail = click.style(printable(self.node_id(node)), dim=True)
        return f"{branches}{name}  {'  '.join([*map(printable, facts), tail])}"


def _type(node: BrowsedNode) -> str | None:
    """Return a variable's type as people read it: DOUBLE, DOUBLE[3], any type[]."""
    facts = node.variable
    if facts is None:
        return None
    word = facts.data_type or "any type"
    if facts.value_rank is None or facts.value_rank < 1:
        return word
    sizes = facts.array_dimensions if any(facts.array_dimensions) else ("",) * facts.value_rank
    return f"{word}[{','.join(str(size or '') for size in sizes)}]"


def _value(node: BrowsedNode) -> str | None:
    facts = node.variable
    if facts is None or facts.status is None:
        return None
    good = facts.status == "Good"
    text = facts.value if facts.value is not None else "no value"
    return text if good else f"{text} ({facts.status})"


def _note_left_out(walk: Walk, shown: _Shown) -> None:
    """Say on stderr what is on the server and not in the result, with the option that brings it."""
    from workers.opcua.browsing.browse import LeftOut  # noqa: PLC0415

    remedies = {
        LeftOut.DEEPER: "--depth",
        LeftOut.TOO_MANY: "--limit",
        LeftOut.TOO_MANY_REFERENCES: "--limit",
        LeftOut.PROPERTIES: "--properties",
        LeftOut.SERVER_OBJECT: "--start i=2253",
        LeftOut.REFUSED: ", ".join(f"{count} {name}" for name, count in walk.refusals.most_common(5)),
    }
    for reason, count in walk.left_out.items():
        if count:
            remedy = f" ({remedies[reason]})" if reason in remedies else ""
            note(f"not listed: {count} {reason}{remedy}")
    if isinstance(shown, _Csv):
        for text, count in shown.tags.left_out.items():
            note(f"no tag: {count} {text}")
        for text, count in shown.tags.remarks.items():
            note(f"note: {count} {text}")
