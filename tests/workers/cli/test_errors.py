"""What a user sees when something is wrong: one line, and an exit status that a script can rely on."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import (
    ConfigurationError,
    ConnectionRefused,
    DatabaseUnavailable,
    InvalidInput,
    MalformedMessage,
    MigrationError,
    NotFound,
    ScadaError,
)
from engine.version import VERSION
from workers.cli import COMMANDS, Exit, exit_of, scada_engine

from .conftest import Cli, bare_environment

CLOSED = "postgresql://nobody:geheim@127.0.0.1:1/scada_master"


def test_the_version_is_printed(cli: Cli) -> None:
    assert cli("--version").stdout == f"scada-engine {VERSION}\n"


def test_help_names_every_command_with_its_own_first_line(cli: Cli) -> None:
    shown = cli("--help").stdout
    for name, (_, told) in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(told)}$", shown, re.MULTILINE)
        command = scada_engine.commands.get(name) or scada_engine.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None
        assert (command.help or "").split("\n\n")[0].strip() == told
        assert command.short_help == told


@pytest.mark.parametrize("command", [["run"], ["migrate", "up"], ["tenant", "list"], ["tags", "list"]])
def test_a_missing_database_says_how_to_set_it_and_names_the_demo(cli: Cli, command: list[str]) -> None:
    done = cli(*command)
    assert done.returncode == Exit.USAGE
    assert done.stderr.startswith("scada-engine: no database is set")
    assert "DATABASE_URL" in done.stderr
    assert "scada-engine demo" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_wrong_setting_names_where_it_came_from(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "wrong.toml").write_text("[opcua]\nqueue_sise = 3\n")
    done = cli("run", "--check-config", "--config", "wrong.toml", "--database-url", CLOSED)
    assert (done.returncode, done.stdout) == (Exit.USAGE, "")
    assert (
        done.stderr == "scada-engine: wrong.toml: opcua.queue_sise: there is no setting 'opcua.queue_sise'\n"
    )


@pytest.mark.parametrize("wrong", ["opcua.queue_size", "=3", ""])
def test_an_assignment_that_is_none_is_refused(cli: Cli, wrong: str) -> None:
    done = cli("config", "show", "--set", wrong)
    assert (done.returncode, done.stderr.count("\n")) == (Exit.USAGE, 1)
    assert "PATH=VALUE" in done.stderr


def test_a_valid_configuration_is_said_to_be_valid(cli: Cli) -> None:
    done = cli("run", "--check-config", "--workers", "3", DATABASE_URL=CLOSED)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the configuration is valid\n", "")


def test_workers_must_be_a_number_or_auto(cli: Cli) -> None:
    done = cli("run", "--check-config", "--workers", "many", DATABASE_URL=CLOSED)
    assert done.returncode == Exit.USAGE
    assert "'many'" in done.stderr


def test_a_database_that_is_down_is_one_line_without_the_password(cli: Cli) -> None:
    done = cli("tenant", "list", DATABASE_URL=CLOSED)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (Exit.DATABASE, "", 1)
    assert done.stderr.startswith('scada-engine: cannot connect to database "scada_master" on 127.0.0.1:1')
    assert "geheim" not in done.stderr


def test_an_engine_that_does_not_run_is_a_network_error(cli: Cli) -> None:
    done = cli("query", "--address", "127.0.0.1:1")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (Exit.NETWORK, "", 1)
    assert "127.0.0.1:1" in done.stderr


def test_a_time_that_is_none_names_the_flag_and_the_value(cli: Cli) -> None:
    done = cli("query", "--from", "yesterday")
    assert (done.returncode, done.stderr.count("\n")) == (Exit.INPUT, 1)
    assert done.stderr.startswith("scada-engine: --from: 'yesterday' is not a time")


def test_a_taken_simulator_port_says_so(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = cli("simulate", "--port", str(port))
    assert done.returncode == Exit.USAGE
    assert f"{port} on 127.0.0.1 is taken" in done.stderr.splitlines()[-1]


def test_an_unknown_command_is_a_usage_error(cli: Cli) -> None:
    done = cli("rnu")
    assert done.returncode == Exit.USAGE
    assert "No such command 'rnu'" in done.stderr


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigurationError("x"), 2),
        (InvalidInput("field", "x"), 3),
        (NotFound("field", "x"), 3),
        (DatabaseUnavailable("x"), 4),
        (MigrationError("x"), 4),
        (ConnectionRefused("x"), 5),
        (MalformedMessage("x", 3), 1),
        (ScadaError("x"), 1),
    ],
)
def test_each_error_has_its_exit_status(error: ScadaError, status: int) -> None:
    assert exit_of(error) == status


def test_a_reader_that_goes_away_ends_the_command_quietly(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "workers.cli", "config", "show"],
        cwd=tmp_path,
        env=bare_environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (Exit.OTHER, b"")


def test_run_imports_nothing_heavy_into_the_supervisor(tmp_path: Path) -> None:
    script = (
        "import sys; import workers.cli, workers.cli.run, workers.logs, workers.supervisor;"
        "print(*{'asyncua', 'grpc', 'psycopg', 'numpy', 'rich', 'uvloop'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=bare_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == []
