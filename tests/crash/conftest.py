"""These tests run only when they are asked for (`make crash`), print how far they are, and share one server."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.servers.databases import MasterAndTenant, Server, migrated_master_and_tenant

HERE = Path(__file__).parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave these tests out unless this folder, or something in it, was named."""
    named = [Path(config.invocation_params.dir, argument.partition("::")[0]) for argument in config.args]
    return None if any(HERE in (path, *path.parents) for path in named) else True


@pytest.fixture
def databases(timescale_dsn: str) -> Iterator[MasterAndTenant]:
    """A new master and tenant on TimescaleDB."""
    with migrated_master_and_tenant(Server("timescale", timescale_dsn)) as made:
        yield made


@pytest.fixture
def seed(say: Callable[[str], None]) -> int:
    """What chance begins with: SCADA_TEST_SEED, or another one each time."""
    chosen = int(os.environ.get("SCADA_TEST_SEED") or time.time_ns() % 1_000_000)
    say(f"seed {chosen}; the same again: SCADA_TEST_SEED={chosen} make crash")
    return chosen


@pytest.fixture
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Print a line although output is captured, with the seconds since the test began."""
    capturing = request.config.pluginmanager.get_plugin("capturemanager")
    assert capturing is not None
    name = request.node.name.removeprefix("test_")[:40]
    started_s = time.monotonic()

    def line(text: str) -> None:
        with capturing.global_and_fixture_disabled():
            print(f"  {name} {time.monotonic() - started_s:6.1f} s  {text}", flush=True)

    return line
