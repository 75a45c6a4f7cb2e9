"""Log lines of a real process: what stands in them, and what must not."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from typing import Any

import pytest

from workers.logs import mask_secrets, printable

_PRELUDE = """
from engine.settings import Settings
from workers import logs
logs.configure(Settings(log_level={level!r}, log_format={form!r}), process={process!r}, index=3)
import asyncio, logging, sys, warnings
import structlog
from structlog.contextvars import bind_contextvars
log = structlog.get_logger("engine.some")
"""


def logged(body: str, *, level: str = "info", form: str = "json", process: str = "ingest") -> str:
    """Return what a process that logs wrote to standard error."""
    done = subprocess.run(
        [sys.executable, "-c", _PRELUDE.format(level=level, form=form, process=process) + body],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == ""
    return done.stderr


def lines(body: str, **how: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in logged(body, **how).splitlines()]


def test_a_line_says_when_how_bad_who_and_what() -> None:
    (line,) = lines('log.warning("it rains", rows=5)')
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "warning",
        "event": "it rains",
        "process": "ingest",
        "shard": 3,
        "logger": "engine.some",
        "rows": 5,
    }


def test_only_an_ingest_worker_has_a_shard() -> None:
    (line,) = lines('log.info("x")', process="front")
    assert line["process"] == "front"
    assert "shard" not in line


def test_tenant_and_connection_stand_in_every_line_of_their_task_and_in_no_other() -> None:
    body = """
async def tenant(slug):
    bind_contextvars(tenant=slug)
    await asyncio.sleep(0)
    log.info("mine")
    logging.getLogger("some.library").warning("foreign")
async def main():
    await asyncio.gather(tenant("acme"), tenant("borealis"))
    log.info("nobody's")
asyncio.run(main())
"""
    seen = sorted((line["event"], line.get("tenant", "")) for line in lines(body))
    assert seen == [
        ("foreign", "acme"),
        ("foreign", "borealis"),
        ("mine", "acme"),
        ("mine", "borealis"),
        ("nobody's", ""),
    ]


def test_lines_below_the_level_are_not_written() -> None:
    body = 'log.debug("d"); log.info("i"); log.warning("w"); log.error("e")'
    assert [line["event"] for line in lines(body, level="debug")] == ["d", "i", "w", "e"]
    assert [line["event"] for line in lines(body, level="warning")] == ["w", "e"]


@pytest.mark.parametrize("library", ["asyncua.client.ua_client", "grpc._server", "asyncio"])
def test_libraries_that_log_every_message_speak_from_warning_on(library: str) -> None:
    body = (
        f'for say in ("debug", "info", "warning"): getattr(logging.getLogger({library!r}), say)("%s it", say)'
    )
    told = lines(body, level="debug")
    assert [(line["event"], line["level"], line["logger"]) for line in told] == [
        ("warning it", "warning", library)
    ]
    assert lines(body, level="error") == []


def test_python_warnings_and_unhandled_errors_are_lines_too() -> None:
    body = 'warnings.warn("old"); raise RuntimeError("nobody foresaw postgresql://u:geheim@h/db")'
    warning, error = lines(body)
    assert "UserWarning: old" in warning["event"]
    assert error["level"] == "critical"
    assert "RuntimeError: nobody foresaw postgresql://u:***@h/db" in error["exception"]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgresql://scada:geheim@db/master", "postgresql://scada:***@db/master"),
        (
            "cannot reach postgresql://scada:geheim@db:5432/m?x=1, again",
            "cannot reach postgresql://scada:***@db:5432/m?x=1, again",
        ),
        ("opc.tcp://user:geheim@plc:4840/path", "opc.tcp://user:***@plc:4840/path"),
        ("postgresql://scada:ge/h@eim@db/m", "postgresql://scada:***@db/m"),
        ("postgresql://:geheim@db/m", "postgresql://:***@db/m"),
        ("host=db password=geheim user=x", "host=db password=*** user=x"),
        ("host=db password='ge heim\\'x' user=x", "host=db password=*** user=x"),
        ("postgresql://db/m?user=x&password=geheim", "postgresql://db/m?user=x&password=***"),
        ("{'password': 'geheim', 'host': 'db'}", "{'password': ***, 'host': 'db'}"),
        ('{"secrets_key": "geheim"}', '{"secrets_key": ***}'),
        ("opc.tcp://plc:4840/a and opc.tcp://plc2:4840", "opc.tcp://plc:4840/a and opc.tcp://plc2:4840"),
        ('password authentication failed for user "x"', 'password authentication failed for user "x"'),
        ("http://[::1]:9090/metrics", "http://[::1]:9090/metrics"),
    ],
)
def test_passwords_are_masked_wherever_they_stand(text: str, masked: str) -> None:
    for value in (text, ValueError(text), [text], {"inner": (text,)}):
        event = mask_secrets(None, "info", {"event": "x", "error": value})
        shown = event["error"]
        while not isinstance(shown, str):
            shown = shown["inner"] if isinstance(shown, dict) else shown[0]
        assert shown == masked
    assert mask_secrets(None, "info", {"event": text})["event"] == masked


def test_what_is_named_a_secret_is_masked_whole() -> None:
    event = mask_secrets(
        None, "info", {"event": "x", "secrets_key": b"k", "password": "p", "row": {"Password": 1}}
    )
    assert event == {"event": "x", "secrets_key": "***", "password": "***", "row": {"Password": "***"}}


def test_an_endless_text_is_cut() -> None:
    text = mask_secrets(None, "info", {"event": "x" * 1_000_000})["event"]
    assert len(text) < 20_000
    assert text.endswith("(983616 characters more)")


@pytest.mark.parametrize(
    "text",
    [
        "a://" * 5_000,
        "a" * 20_000,
        "://:" * 5_000,
        "password='" * 2_000,
        "password " * 2_000,
        "secret" * 3_000,
    ],
)
@pytest.mark.timeout(20)  # patterns that backtrack take minutes for these
def test_masking_a_hostile_text_ends(text: str) -> None:
    assert "event" in mask_secrets(None, "info", {"event": text})


def test_values_that_json_does_not_know_are_written_as_text() -> None:
    body = """
import uuid, datetime
log.info("x", id=uuid.UUID(int=1), at=datetime.datetime(2026, 1, 1), raw=b"\\xff", f=float("nan"))
log.info("y", big=2**70, small=-(2**63), odd="\\ud800", keys={1: None}, some={2})
"""
    line, other = lines(body)
    assert line["id"] == "00000000-0000-0000-0000-000000000001"
    assert line["at"] == "2026-01-01 00:00:00"
    assert line["raw"] == "b'\\xff'"
    assert line["f"] is None
    assert other["big"] == str(2**70)
    assert other["small"] == -(2**63)
    assert other["odd"] == "\\ud800"
    assert other["keys"] == {"1": None}
    assert other["some"] == [2]


def test_an_error_has_its_traceback_without_local_variables() -> None:
    body = """
try:
    secret_local = "geheim" * 2
    raise ValueError("broken")
except ValueError:
    log.exception("it failed")
"""
    (line,) = lines(body)
    assert line["exception"].startswith("Traceback")
    assert "ValueError: broken" in line["exception"]
    assert "geheimgeheim" not in line["exception"]


def test_a_console_line_cannot_be_faked_by_what_a_server_sends() -> None:
    hostile = "x\\n2026 [error] \\x1b[2J\\u202e"
    text = logged(f'log.info("{hostile}", error="\\x1b[2J", other="{hostile}")', form="console")
    assert text.count("\n") == 1
    assert "\x1b" not in text
    assert r"x\n2026 [error] \x1b[2J\u202e" in text
    traceback = printable(None, "info", {"exception": "a\n  b\x07"})
    assert traceback["exception"] == "a\n  b\\x07"


def test_auto_is_json_in_a_pipe_and_a_console_on_a_terminal() -> None:
    assert logged('log.info("x")', form="auto").startswith("{")
    master, slave = pty.openpty()
    body = _PRELUDE.format(level="info", form="auto", process="front") + 'log.info("x", dsn="a://b:geheim@c")'
    subprocess.run([sys.executable, "-c", body], stderr=slave, timeout=60, check=True)
    os.close(slave)
    text = os.read(master, 65_536).decode()
    os.close(master)
    assert not text.startswith("{")
    assert "geheim" not in text
    assert "front" in text


def test_logging_does_not_load_rich_and_does_not_keep_others_from_it() -> None:
    body = """
log.info("x", loaded="rich" in sys.modules)
import rich.console
log.info("y", loaded="rich" in sys.modules)
"""
    assert [line["loaded"] for line in lines(body)] == [False, True]


def test_the_reader_of_the_log_may_go_away() -> None:
    read, write = os.pipe()
    os.close(read)
    body = (
        _PRELUDE.format(level="info", form="json", process="front")
        + 'log.info("x"); log.info("y"); sys.exit(7)'
    )
    done = subprocess.run([sys.executable, "-c", body], stderr=write, timeout=60, check=False)
    os.close(write)
    assert done.returncode in (7, 120)  # 120: Python's own, when standard error cannot be flushed at exit
