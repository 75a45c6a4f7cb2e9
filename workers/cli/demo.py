"""`scada-engine demo` (`make run`): a database, two simulated wells and the engine, here and now, and what they do.

Owns the order: the database, its schema, the simulator, the engine; then the view until Ctrl-C, TERM, or until one of
them ends; then the same backwards. All data is in one folder and is used again by the next start:

    postgres/   the database server (workers.embedded)
    journal/    readings that are not in the database yet
    log/        what the simulator and the engine wrote since the last start
    env         shell variables for commands that should reach this engine and its database
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import NoReturn
from uuid import UUID

import click

from engine import catalog
from engine.database import create_database
from engine.errors import ScadaError
from engine.migrations import Target, Which, migrate_all
from engine.settings import Settings, load
from workers.cli.child_process import ChildProcess
from workers.cli.databases import master_database, tenant_database
from workers.cli.output import console, note
from workers.cli.ports import free_port_near, is_ready
from workers.cli.simulate import DEFAULT_PORT
from workers.cli.steps import Steps
from workers.cli.tenants import add_tenant
from workers.embedded import EmbeddedPostgres
from workers.embedded_binaries import server_user

TENANT = "demo"
MASTER = "scada_master"
NOT_FOR_PRODUCTION = "this is plain PostgreSQL, without TimescaleDB: good for a look, not for production"
# The view moves once a second, and one tenant needs one worker; what the environment says comes first.
_DEFAULTS = {"BUFFER_DURATION_MS": "1000", "SCADA_WORKERS": "1", "SCADA_LOG_FORMAT": "console"}
_START_S = 60.0
_POLL_S = 0.05
_LAST_LINES = 15
# Beyond the engine's own deadline: it is the engine that decides what to give up.
_ENGINE_STOP_EXTRA_S = 5.0
_SIMULATOR_STOP_S = 10.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _ChildEnded(Exception):
    """A child ended that should run."""

    def __init__(self, child: ChildProcess) -> None:
        super().__init__(child.name)
        self.child = child


@click.command(short_help="Run everything here: database, simulator, engine, live view.")
@click.option(
    "--dir",
    "folder",
    default=".scada",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where its data stays.",
)
def demo(*, folder: Path) -> int:
    """Run everything here: database, simulator, engine, live view.

    Needs no database and no OPC UA server. Ctrl-C stops all of it; the data stays for the next start.
    """
    return Demo(folder.absolute()).run()


class Demo:
    """One demo, from start to stop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._console = console()
        self._steps = Steps(self._console)
        self._children: list[ChildProcess] = []

    def run(self) -> int:
        """Run until told to stop (0), or until a child ends (its exit status)."""
        # Under nohup a hang-up stays ignored; an interrupt is always meant, also where a shell starts us ignoring it.
        signals = [
            each for each in _SIGNALS if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN
        ]
        for number in signals:
            signal.signal(number, _interrupt)
        try:
            # What is started puts its stop on this stack; the last started stops first, whatever made us leave.
            with ExitStack() as stops:
                try:
                    self._start_and_watch(stops)
                finally:
                    for number in signals:
                        signal.signal(number, self._hurry)
        except KeyboardInterrupt:
            self._steps.say(f"all stopped; the data stays in {_shown(self._folder)}")
            return 0
        except _ChildEnded as exc:
            return self._report(exc.child)

    def _start_and_watch(self, stops: ExitStack) -> NoReturn:
        defaults = _DEFAULTS | {"SCADA_JOURNAL__FOLDER": str(self._folder / "journal")}
        environment = os.environ | {name: os.environ.get(name, value) for name, value in defaults.items()}
        settings = load(environment=environment)
        postgres = EmbeddedPostgres(self._postgres_folder())
        stops.callback(self._stop_postgres, postgres)
        simulator_port = self._port("the simulator", DEFAULT_PORT)
        # It is slow to start, so it starts while the database does.
        simulator = self._start_child("simulator", "simulate", "--port", str(simulator_port), stops=stops,
                                      environment=environment, deadline_s=_SIMULATOR_STOP_S)  # fmt: skip
        with self._steps.step("starting PostgreSQL"):
            postgres.start()
        self._steps.say(f"note: {NOT_FOR_PRODUCTION}")
        environment |= {
            "DATABASE_URL": postgres.dsn(MASTER),
            "METRICS_PORT": str(self._port("metrics", settings.metrics_port)),
            "GRPC_PORT": str(self._port("gRPC", settings.grpc_port)),
            "SCADA_REST_PORT": str(self._port("REST", settings.rest_port)),
        }
        settings = load(environment=environment)
        with self._steps.step("creating and migrating the databases"):
            asyncio.run(_prepare_databases(postgres.dsn(), settings))
        with self._steps.step("starting the simulator of two wells"):
            self._wait(simulator, lambda: "READY " in simulator.log_text())
        well_id = asyncio.run(_seed(settings, f"opc.tcp://127.0.0.1:{simulator_port}"))
        with self._steps.step("starting the engine"):
            engine = self._start_child("engine", "run", stops=stops, environment=environment,
                                       deadline_s=settings.stop_deadline_s + _ENGINE_STOP_EXTRA_S)  # fmt: skip
            self._wait(engine, lambda: is_ready(settings.metrics_port))
        _write_env(self._folder / "env", environment)
        self._watch(settings, postgres, well_id)

    def _postgres_folder(self) -> Path:
        """Where the server's data goes: with ours, unless we are root and its user cannot go there (as below /root)."""
        user = server_user()
        self._folder.mkdir(parents=True, exist_ok=True)
        if user.can_enter(self._folder):
            return self._folder / "postgres"
        # Root's own place for such data. The name leads from the same folder to the same data.
        mark = sha256(os.fsencode(self._folder)).hexdigest()[:12]
        folder = Path("/var/lib/scada-engine") / f"demo-{mark}"
        self._steps.say(
            f"note: user {user.name} cannot enter {self._folder}; the database's data is in {folder}"
        )
        return folder

    def _start_child(
        self, name: str, *arguments: str, stops: ExitStack, environment: Mapping[str, str], deadline_s: float
    ) -> ChildProcess:
        log = self._folder / "log"
        log.mkdir(parents=True, exist_ok=True)
        child = ChildProcess.start(name, arguments, environment=environment, log_file=log / f"{name}.log")
        self._children.append(child)
        stops.callback(self._stop_child, child, deadline_s)
        return child

    def _port(self, what: str, wanted: int) -> int:
        port = free_port_near(wanted)
        if wanted not in (port, 0):
            self._steps.say(f"note: port {wanted} is taken; {what} is on {port}")
        return port

    def _wait(self, child: ChildProcess, done: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + _START_S
        while not done():
            if child.exit_status is not None:
                raise _ChildEnded(child)
            if time.monotonic() > deadline_s:
                raise ScadaError(
                    f"the {child.name} is not ready after {_START_S:.0f} s; see {child.log_file}"
                )
            time.sleep(_POLL_S)

    def _watch(self, settings: Settings, postgres: EmbeddedPostgres, well_id: UUID) -> NoReturn:
        """Show the figures until a signal, or until something ends."""
        from workers.cli.watch import watch  # noqa: PLC0415  (gRPC must not see our children being forked)

        commands = _commands(settings, self._folder, well_id)
        for _ in watch(self._console, settings, tenant=TENANT, commands=commands):
            for child in self._children:
                if child.exit_status is not None:
                    raise _ChildEnded(child)
            if postgres.pid is None:
                raise ScadaError(f"PostgreSQL ended; see {postgres.folder / 'server.log'}")
        raise AssertionError("the watch has no end")

    def _stop_child(self, child: ChildProcess, deadline_s: float) -> None:
        if child.exit_status is not None:
            return
        started_s = time.monotonic()
        how = "stopped" if child.stop(deadline_s=deadline_s) else "had to be killed"
        self._steps.say(f"the {child.name} {how} ... {time.monotonic() - started_s:.1f} s")

    def _stop_postgres(self, postgres: EmbeddedPostgres) -> None:
        started_s = time.monotonic()
        was_running = postgres.pid is not None
        postgres.stop()
        if was_running:
            self._steps.say(f"PostgreSQL stopped ... {time.monotonic() - started_s:.1f} s")

    def _hurry(self, *_: object) -> None:
        """A second signal: the engine gives up what is not stored yet."""
        for child in self._children:
            child.ask_to_stop()

    def _report(self, child: ChildProcess) -> int:
        status = child.exit_status or 0
        note(f"scada-engine: the {child.name} ended by itself; the end of {_shown(child.log_file)}:")
        for text in child.log_text().splitlines()[-_LAST_LINES:]:
            note(f"  {text}")
        return status if status > 0 else 1


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


async def _prepare_databases(server_dsn: str, settings: Settings) -> None:
    """Create the master database and the tenant where they are not there, and migrate both."""
    await create_database(server_dsn, MASTER)

    async def tenants() -> list[Target]:
        async with master_database(settings) as master:
            found = await catalog.list_tenants(master, settings, include_disabled=True)
        return [Target(tenant.slug, tenant.dsn, Which.TENANT) for tenant in found]

    outcomes = await migrate_all(settings.database_url, tenants)
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error
    if TENANT not in {outcome.label for outcome in outcomes}:
        await add_tenant(settings, TENANT, "Demo")


async def _seed(settings: Settings, endpoint: str) -> UUID:
    """Make the wells with their tags, and return the well in the Permian basin."""
    async with tenant_database(settings, TENANT) as (tenant, database):
        await catalog.seed(database, tenant.id, endpoint)
        wells = await catalog.list_wells(database)
    return next(well.id for well in wells if well.name.startswith("Permian"))


def _write_env(file: Path, environment: Mapping[str, str]) -> None:
    """Write the variables that lead a shell's commands here; the database's password is among them."""
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    names = ("DATABASE_URL", "METRICS_PORT", "GRPC_PORT", "SCADA_REST_PORT")
    file.write_text("".join(f"export {name}={shlex.quote(environment[name])}\n" for name in names), "utf-8")


def _commands(settings: Settings, folder: Path, well_id: UUID) -> list[str]:
    """Return commands to try next, fit to be copied."""
    program = _program()
    default = Settings()
    port = "" if settings.grpc_port == default.grpc_port else f"GRPC_PORT={settings.grpc_port} "
    return [
        f"{port}{program} query --well Permian --from -5m",
        f"grpcurl -plaintext localhost:{settings.grpc_port} scada.v1.ReadingService/GetLatestReadings",
        f'curl -s "localhost:{settings.rest_port}/scada/readings?wellId={well_id}&from=$(date -u +%F)"',
        f"curl -s localhost:{settings.rest_port}/scada/connections",
        f"curl -s localhost:{settings.metrics_port}/metrics",
        f". {shlex.quote(_shown(folder / 'env'))}; {program} connection list",
    ]


def _program() -> str:
    """How a shell in this folder calls us."""
    installed = Path(sys.executable).with_name("scada-engine")
    if not installed.exists():
        return f"{_shown(Path(sys.executable))} -m workers.cli"
    found = shutil.which("scada-engine")
    return "scada-engine" if found and Path(found).samefile(installed) else _shown(installed)


def _shown(path: Path) -> str:
    """The path as short as it can be said here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
