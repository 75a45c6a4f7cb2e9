"""`scada-engine quarantine list|retry|drop` on a real server."""

from __future__ import annotations

import base64
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest

from engine.database import with_database

from .conftest import Cli, bare_environment

ENDPOINT = "opc.tcp://127.0.0.1:4841"
TAGS = "tag_name,opc_node_id\nTUBING,ns=2;s=A.Tubing\nGAS,ns=2;s=A.Gas\n"
NOW_US = 1_780_000_000_000_000
LEAST_US = -(2**63)
# tag_id, ts_us, status, value, text_bytes, reason, sqlstate
ROWS: tuple[tuple[Any, ...], ...] = (
    (1, LEAST_US, 0, 1.5, None, "timestamp", None),
    (1, 86_400_000_000, 0, 2.5, None, "timestamp", None),
    (2, NOW_US, -2147483648, None, b"caf\xe9\x1b[2J" + b"x" * 100, "text", None),
    (2, NOW_US + 1, 0, float("inf"), "Öl".encode(), "rejected", "23514"),
    (999, NOW_US + 2, 0, 7.0, None, "rejected", "22003"),
    (None, None, None, None, None, "journal", None),
)


@pytest.fixture
def acme(embedded_dsn: str, new_database: Callable[[str], str], cli: Cli) -> str:
    """The DSN of a master whose only tenant has two tags, and a row of each sort in its quarantine."""
    master = new_database(embedded_dsn)
    slug = "held_" + master.rpartition("_")[2]
    for command in (
        ["migrate", "up"],
        ["tenant", "add", slug],
        ["connection", "add", "RTU", "--endpoint", ENDPOINT, "--well", "Well 7"],
    ):
        assert cli(*command, DATABASE_URL=master).returncode == 0
    assert cli("tags", "import", "-", "--connection", "RTU", stdin=TAGS, DATABASE_URL=master).returncode == 0
    with psycopg.connect(of_tenant(master)) as connection:
        for place, row in enumerate(ROWS):
            connection.execute(
                """
                insert into reading_quarantine (stream, sequence, place, tag_id, ts_us, status, value, text_bytes,
                    reason, sqlstate, detail, quarantined_at)
                values (gen_random_uuid(), 1, %s, %s, %s, %s, %s, %s, %s, %s, 'so it was', '2026-05-01 12:00Z')
                """,
                [place, *row],
            )
    return master


def of_tenant(master: str) -> str:
    with psycopg.connect(master) as connection:
        found = connection.execute("select database_name from tenants").fetchone()
    assert found is not None
    return with_database(master, found[0])


def listed(cli: Cli, master: str, *arguments: str) -> list[dict[str, Any]]:
    done = cli("quarantine", "list", *arguments, "--json", DATABASE_URL=master)
    assert (done.returncode, done.stderr) == (0, "")
    return [orjson.loads(line) for line in done.stdout.splitlines()]


def readings(master: str) -> list[Any]:
    with psycopg.connect(of_tenant(master)) as connection:
        return connection.execute(
            "select tag_id, status, value, text_value from readings order by ts"
        ).fetchall()


def test_every_field_of_a_row_is_there_for_scripts(acme: str, cli: Cli) -> None:
    rows = {row["id"]: row for row in listed(cli, acme)}
    assert list(rows) == [6, 5, 4, 3, 2, 1]
    text = rows[3]
    assert (text["well"], text["tag"], text["tag_id"]) == ("Well 7", "GAS", 2)
    assert (text["opc_node_id"], text["status"], text["quality"]) == ("ns=2;s=A.Gas", 0x8000_0000, "Bad")
    assert (text["time"], text["ts_us"]) == ("2026-05-28T20:26:40.000000Z", NOW_US)
    assert text["text"] == "caf\ufffd\x1b[2J" + "x" * 100
    assert (base64.b64decode(text["text_base64"]), text["text_bytes"]) == (
        b"caf\xe9\x1b[2J" + b"x" * 100,
        108,
    )
    assert (text["reason"], text["sqlstate"], text["detail"]) == ("text", None, "so it was")
    assert text["quarantined_at"] == "2026-05-01T12:00:00+00:00"
    assert (rows[1]["time"], rows[1]["ts_us"], rows[1]["value"]) == (None, LEAST_US, 1.5)
    assert (rows[4]["value"], rows[4]["text"], rows[4]["sqlstate"]) == ("Infinity", "Öl", "23514")
    assert (rows[5]["tag"], rows[5]["tag_id"]) == (None, 999)
    assert (rows[6]["tag_id"], rows[6]["time"], rows[6]["quality"]) == (None, None, None)


def test_people_get_a_table_in_which_nothing_can_move_the_cursor(acme: str, cli: Cli) -> None:
    shown = cli("quarantine", "list", DATABASE_URL=acme).stdout
    assert "\x1b" not in shown
    assert r"caf�\x1b[2Jxxxxx" in shown
    assert "x" * 50 not in shown
    assert str(LEAST_US) in shown
    assert "so it was (23514)" in shown


def test_rows_are_chosen_by_each_option(acme: str, cli: Cli) -> None:
    choices: tuple[tuple[tuple[str, ...], list[int]], ...] = (
        (("--id", "2", "--id", "5"), [5, 2]),
        (("--tag", "GAS"), [4, 3]),
        (("--tag", "ns=2;s=A.Tubing", "--tag", "999"), [5, 2, 1]),
        (("--well", "Well 7"), [4, 3, 2, 1]),
        (("--reason", "journal"), [6]),
        (("--from", "2026-05-01T12:00", "--to", "2026-05-01T12:01"), [6, 5, 4, 3, 2, 1]),
        (("--from", "-15m"), []),
        (("--limit", "0"), [6, 5, 4, 3, 2, 1]),
    )
    for arguments, ids in choices:
        assert [row["id"] for row in listed(cli, acme, *arguments)] == ids, arguments


def test_a_list_that_is_cut_says_how_many_there_are(acme: str, cli: Cli) -> None:
    done = cli("quarantine", "list", "--limit", "2", "--json", DATABASE_URL=acme)
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr.startswith("these are the newest 2 of 6 quarantined rows (2 ")
    assert done.stderr.endswith("; --limit 0 shows all\n")
    assert cli("quarantine", "list", "--limit", "6", DATABASE_URL=acme).stderr == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list", "--id", "77"], "--id: there is no quarantined row 77"),
        (["retry", "--tag", "OIL"], "--tag: there is no tag 'OIL'; `tags list` shows them"),
        (["drop", "--yes", "--well", "Well 8"], "--well: there is no well 'Well 8'"),
        (["list", "--from", "now", "--to", "-1d"], "--to: "),
        (["list", "--from", "yesterday"], "--from: 'yesterday' is not a time"),
        (["list", "--tag", "0"], "tag_ids: 0 is not between 1 and 2147483647"),
        (["drop", "--all"], "--yes: nobody can be asked here; add it to drop 6 quarantined rows"),
    ],
)
def test_what_does_not_fit_is_named_and_changes_nothing(
    acme: str, cli: Cli, arguments: list[str], said: str
) -> None:
    done = cli("quarantine", *arguments, DATABASE_URL=acme)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert done.stderr.startswith(f"scada-engine: {said}")
    assert len(listed(cli, acme)) == 6


def test_everything_is_dropped_only_when_that_is_said(acme: str, cli: Cli) -> None:
    for arguments in (["--yes"], ["--all", "--reason", "text", "--yes"]):
        assert cli("quarantine", "drop", *arguments, DATABASE_URL=acme).returncode == 2
    assert len(listed(cli, acme)) == 6
    done = cli("quarantine", "drop", "--all", "--yes", DATABASE_URL=acme)
    assert (done.returncode, done.stdout) == (0, "dropped 6 quarantined rows\n")
    assert "quarantined readings were dropped" in done.stderr
    assert '"rows":6' in done.stderr
    done = cli("quarantine", "list", DATABASE_URL=acme)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "nothing is quarantined\n")


def test_what_can_be_stored_is_stored_once_and_the_rest_stays(acme: str, cli: Cli) -> None:
    done = cli("quarantine", "retry", DATABASE_URL=acme)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "stored 2 readings; 4 quarantined rows (2 timestamp, 1 text, 1 journal) stayed\n"
    assert readings(acme) == [(2, 0, float("inf"), "Öl"), (999, 0, 7.0, None)]

    done = cli("quarantine", "retry", "--replace-invalid", "--any-time", "--json", DATABASE_URL=acme)
    assert orjson.loads(done.stdout) == {
        "stored": 2, "kept": 2, "kept_by_reason": {"timestamp": 1, "journal": 1}
    }  # fmt: skip
    assert readings(acme)[0] == (1, 0, 2.5, None)
    assert readings(acme)[1][3] == "caf\ufffd\x1b[2J" + "x" * 100

    done = cli("quarantine", "retry", "--reason", "rejected", DATABASE_URL=acme)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "nothing that is quarantined fits\n")
    assert len(readings(acme)) == 4


def test_an_error_in_the_middle_says_what_was_done_before_it(acme: str, cli: Cli) -> None:
    with psycopg.connect(of_tenant(acme)) as connection:
        connection.execute("drop table readings cascade")
    done = cli("quarantine", "retry", "--tag", "999", DATABASE_URL=acme)
    assert done.returncode == 4
    assert done.stderr.startswith(
        "stored 0 readings before this:\nscada-engine: cannot try quarantined readings"
    )
    assert len(listed(cli, acme)) == 6


@pytest.mark.parametrize(("answer", "left"), [("n", 6), ("y", 4)])
def test_on_a_terminal_it_asks_before_it_drops(
    acme: str, cli: Cli, tmp_path: Path, answer: str, left: int
) -> None:
    typing, keyboard = pty.openpty()
    try:
        os.write(typing, f"{answer}\n".encode())
        done = subprocess.run(
            [sys.executable, "-m", "workers.cli", "quarantine", "drop", "--reason", "timestamp"],
            cwd=tmp_path,
            env=bare_environment(DATABASE_URL=acme),
            stdin=keyboard,
            capture_output=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(typing)
        os.close(keyboard)
    assert b"Drop 2 quarantined rows (2 timestamp) of tenant held_" in done.stdout
    assert done.returncode == (0 if answer == "y" else 1)
    assert len(listed(cli, acme)) == left
