"""`scada-engine demo`, whole: readings appear, and whatever ends it, nothing stays behind."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from .conftest import Cli
from .demo_process import READINGS, demo_folder, running_demo


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """One folder for all tests of this file; a later start finds the data of an earlier one."""
    with demo_folder() as made:
        yield made


def test_term_stops_the_engine_then_the_simulator_then_the_database(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with running_demo(folder, METRICS_PORT=str(port)) as demo:
            demo.until(rf"port {port} is taken; metrics is on \d+")
            demo.until("not for production")
            demo.until(READINGS)
            assert len(demo.descendants()) >= 5
            demo.process.send_signal(signal.SIGTERM)
            assert demo.wait() == 0
            places = [
                demo.text.index(f"{name} stopped") for name in ("the engine", "the simulator", "PostgreSQL")
            ]
            assert places == sorted(places)
            demo.wait_until_all_are_gone()


def test_ctrl_c_ends_the_view_on_a_terminal_and_the_next_start_keeps_the_readings(
    folder: Path, cli: Cli
) -> None:
    with running_demo(folder, terminal=True) as demo:
        demo.until("readings/s")
        demo.until("TUBING_PRESSURE")
        demo.until("query --well Permian")
        (first,) = cli(
            "query", "--from", "-1h", "--limit", "1", "--json", **demo.environment()
        ).stdout.splitlines()
        demo.descendants()
        demo.type(b"\x03")
        assert demo.wait() == 0
        assert "all stopped" in demo.text
        assert "Traceback" not in demo.text
        demo.wait_until_all_are_gone()

    with running_demo(folder) as again:
        again.until(READINGS)
        found = cli("query", "--from", "-1h", "--limit", "1", "--json", **again.environment()).stdout
        assert orjson.loads(found) == orjson.loads(first)

        second = cli("demo", "--dir", str(folder), METRICS_PORT="0", GRPC_PORT="0", SCADA_REST_PORT="0")
        assert second.returncode == 2
        assert "in use by another process" in second.stderr


def test_nothing_outlives_a_demo_that_is_killed(folder: Path) -> None:
    with running_demo(folder, SCADA_STOP_DEADLINE_S="3") as demo:
        demo.until(READINGS)
        assert len(demo.descendants()) >= 5
        demo.process.kill()
        demo.process.wait(10)
        demo.wait_until_all_are_gone()


def test_a_part_that_dies_ends_all_and_its_last_lines_are_shown(folder: Path) -> None:
    with running_demo(folder) as demo:
        demo.until(READINGS)
        (aggregator,) = (each for each in demo.descendants() if each.name() == "scada-aggregato")
        engine = aggregator.parent()
        assert engine is not None
        engine.kill()
        assert demo.wait() == 1
        assert "the engine ended by itself; the end of data/log/engine.log:\n" in demo.text
        assert "connected" in demo.text.partition("engine.log")[2]
        assert "Traceback" not in demo.text
        demo.wait_until_all_are_gone()
