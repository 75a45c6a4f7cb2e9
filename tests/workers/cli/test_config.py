"""`config show`: every setting, valid as a file, and no secret."""

from __future__ import annotations

import tomllib
from pathlib import Path

import orjson

from engine.settings import Settings

from .conftest import Cli

URL = "postgresql://scada:geheim@db.example.com:5432/scada_master"


def test_secrets_are_masked(cli: Cli) -> None:
    for flags in ([], ["--json"]):
        shown = cli("config", "show", *flags, DATABASE_URL=URL, SCADA_SECRETS_KEY="c2VjcmV0").stdout
        assert "postgresql://scada:***@db.example.com:5432/scada_master" in shown
        assert "geheim" not in shown
        assert "c2VjcmV0" not in shown


def test_it_needs_no_database(cli: Cli) -> None:
    assert cli("config", "show").returncode == 0


def test_the_output_is_a_valid_file_with_the_same_settings(cli: Cli, tmp_path: Path) -> None:
    first = cli("config", "show", "--set", "opcua.queue_size=77", MAX_BUFFER_SIZE="5000").stdout
    assert tomllib.loads(first)["opcua"]["queue_size"] == 77
    (tmp_path / "same.toml").write_text(first)
    assert cli("config", "show", "--config", "same.toml").stdout == first


def test_a_flag_wins_over_the_environment_and_that_over_the_file(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "some.toml").write_text("grpc_port = 1\nmetrics_port = 1\nmax_buffer_size = 1\n")
    done = cli("config", "show", "--json", "--config", "some.toml", "--set", "grpc_port=3",
               GRPC_PORT="2", METRICS_PORT="2")  # fmt: skip
    shown = orjson.loads(done.stdout)
    assert (shown["grpc_port"], shown["metrics_port"], shown["max_buffer_size"]) == (3, 2, 1)
    assert shown["log_level"] == Settings().log_level


def test_a_value_with_quotes_stays_valid_toml(cli: Cli) -> None:
    shown = cli("config", "show", "--set", 'host=a"b\\c\u00e9').stdout
    assert tomllib.loads(shown)["host"] == 'a"b\\c\u00e9'
