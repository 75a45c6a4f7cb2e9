"""A process that was killed or stopped, and the next one: real servers, whose counters show a loss or a repetition."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.catalog.records import ItemSettings
from engine.gaps import Cause
from engine.metrics import Counter, MetricsPage
from tests.servers.cutting_proxy import CuttingProxy
from tests.servers.node_opcua import node_opcua_server
from tests.servers.opcua_server import OpcuaServer, free_port
from tests.servers.open62541 import open62541_server
from tests.workers.opcua.cell import security, tags_of
from tests.workers.opcua.held import NODES, SETTINGS
from tests.workers.opcua.lives import Lives
from tests.workers.opcua.plant import Plant
from tests.workers.opcua.tenant import Tenant, connection, until
from workers.opcua import tending
from workers.opcua.monitoring.outcome import Monitoring
from workers.opcua.security.pki import Pki
from workers.opcua.sink import ConnectionReport

RESTART_GAPS = [(1, Cause.RESTART), (2, Cause.RESTART), (3, Cause.RESTART)]


@pytest.fixture(scope="module")
def patient() -> Iterator[OpcuaServer]:
    """A server that grants what is asked for."""
    with open62541_server(interval_ms=20.0) as server:
        yield server


@pytest.fixture(scope="module")
def forgetful() -> Iterator[OpcuaServer]:
    """A server that keeps the subscriptions of a session that ended; its counters are slow, as it samples them."""
    with node_opcua_server(interval_ms=400.0) as server:
        yield server


@pytest.fixture
async def lives(page: MetricsPage, tmp_path: Path) -> AsyncIterator[Lives]:
    """A connection to be made; its proxy leads where `target` says."""
    proxy = await CuttingProxy.start("127.0.0.1", 1)
    lives = Lives(page, proxy, tmp_path)
    yield lives
    await lives.remove()
    await proxy.stop()


def to(lives: Lives, server: OpcuaServer) -> str:
    lives.proxy.target = ("127.0.0.1", server.port)
    return f"opc.tcp://127.0.0.1:{lives.proxy.port}"


def gaps(lives: Lives) -> list[tuple[int, Cause]]:
    return sorted((tag_id, cause) for tag_id, _, _, cause in lives.journal.gaps)


async def test_a_killed_process_is_succeeded_without_a_loss_or_a_repetition(
    patient: OpcuaServer, lives: Lives
) -> None:
    wanted = connection(to(lives, patient), *NODES)
    lives.begin(wanted, SETTINGS)
    await lives.goes_on(5)
    await lives.remembered()
    for life in range(3):
        await asyncio.sleep(0.1 * life)
        await lives.kill()
        lives.begin(wanted, SETTINGS)
        await lives.goes_on()
    assert lives.journal.breaks == []
    assert lives.journal.gaps == set()
    # Whether a message was on its way at a kill, to be sent again, is a matter of luck.
    assert lives.counted(Counter.RESUMED_SESSIONS) == 3


async def test_what_was_in_memory_when_the_process_was_killed_is_had_again(
    patient: OpcuaServer, lives: Lives
) -> None:
    wanted = connection(to(lives, patient), *NODES)
    lives.begin(wanted, SETTINGS)
    await lives.goes_on(5)
    await lives.remembered()
    await lives.kill()
    journaled = lives.last
    lives.begin(wanted, SETTINGS, sync=False)
    # Nothing of this life is ever journaled.
    await until(lambda: len(lives.sink.messages) >= 10)
    await lives.kill()
    assert lives.last == journaled
    lives.begin(wanted, SETTINGS)
    await lives.goes_on()
    assert lives.journal.breaks == []
    assert lives.journal.gaps == set()


async def test_a_process_that_was_killed_before_it_journaled_anything_loses_nothing(
    patient: OpcuaServer, lives: Lives
) -> None:
    wanted = connection(to(lives, patient), *NODES)
    lives.begin(wanted, SETTINGS, sync=False)
    await until(lambda: lives.sink.messages)
    # That the subscription begins is durable, and none of its values.
    first = lives.sink.messages.pop(0)
    assert first.position.sequence_number == 0
    first.durable(first.position)
    lives.journal.positions[wanted.id, first.position.subscription_id] = 0
    await until(lambda: len(lives.sink.ring) > 9)
    oldest = min(lives.sink.ring.drain(3).value)
    await lives.remembered()
    await lives.kill()
    lives.begin(wanted, SETTINGS)
    await lives.goes_on()
    assert lives.journal.breaks == []
    assert min(values[0] for values in lives.journal.values.values()) == oldest


@pytest.mark.parametrize("mode", ["None", "SignAndEncrypt"])
async def test_each_makers_server_goes_on_with_the_next_process(
    secured_server: OpcuaServer, lives: Lives, trusting: Pki, mode: str
) -> None:
    wanted = connection(to(lives, secured_server), *NODES, **security(mode))
    settings = replace(SETTINGS, request_timeout_s=5.0)
    lives.begin(wanted, settings, pki=trusting)
    await lives.goes_on(3)
    await lives.remembered()
    await lives.kill()
    lives.begin(wanted, settings, pki=trusting)
    await lives.goes_on(5)
    await lives.stop()
    lives.begin(wanted, settings, pki=trusting)
    await lives.goes_on(5)
    assert lives.journal.breaks == []
    assert lives.journal.gaps == set()
    assert lives.counted(Counter.RESUMED_SESSIONS) == 2


async def test_where_the_session_is_gone_the_next_process_takes_its_subscriptions_over(
    forgetful: OpcuaServer, lives: Lives
) -> None:
    wanted = connection(to(lives, forgetful), *NODES)
    settings = replace(SETTINGS, session_timeout_s=2.0)
    lives.begin(wanted, settings)
    await lives.goes_on(2)
    await lives.remembered()
    lives.proxy.refuse()
    await asyncio.sleep(4.5)
    await lives.kill()
    lives.begin(wanted, settings)
    await lives.goes_on(8)
    assert lives.journal.breaks == []
    assert lives.journal.gaps == set()
    assert lives.counted(Counter.TRANSFERRED_SUBSCRIPTIONS) == 1


async def test_a_server_that_was_restarted_meanwhile_gets_new_subscriptions_and_each_tag_has_a_gap(
    lives: Lives,
) -> None:
    port = free_port()
    with open62541_server(port=port, interval_ms=20.0) as server:
        wanted = connection(to(lives, server), *NODES)
        lives.begin(wanted, SETTINGS)
        await lives.goes_on(50)
        await lives.remembered()
        await lives.kill()
    with open62541_server(port=port, interval_ms=20.0):
        lives.begin(wanted, SETTINGS)
        await until(lambda: len(gaps(lives)) == 3, within_s=20.0)
        # Its subscription has the same id as the one before, and its numbers begin again.
        await lives.remembered()
        await lives.kill()
        lives.begin(wanted, SETTINGS)
        await lives.goes_on()
    assert len(lives.journal.positions) == 1
    assert gaps(lives) == RESTART_GAPS
    # The counters began again, once each.
    assert [tag_id for tag_id, _, _ in lives.journal.breaks] == [1, 2, 3]
    assert lives.counted(Counter.RESUMED_SESSIONS) == 1


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _other_version(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"scada-session 1", b"scada-session 2"))


def _endless(path: Path) -> None:
    os.truncate(path, 1 << 34)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("spoil", [_cut_short, _flip, _empty, _other_version, _endless, _folder])
async def test_a_file_that_is_not_what_was_written_is_not_used(
    patient: OpcuaServer, lives: Lives, spoil: Callable[[Path], None]
) -> None:
    wanted = connection(to(lives, patient), *NODES)
    lives.begin(wanted, SETTINGS)
    await lives.goes_on(3)
    await lives.remembered()
    await lives.kill()
    (path,) = lives.files
    spoil(path)
    lives.begin(wanted, SETTINGS)
    await lives.goes_on(3)
    assert gaps(lives) == RESTART_GAPS
    assert lives.counted(Counter.RESUMED_SESSIONS) == 0


async def test_a_session_of_other_tags_or_settings_is_not_used(patient: OpcuaServer, lives: Lives) -> None:
    wanted = connection(to(lives, patient), *NODES)
    lives.begin(wanted, SETTINGS)
    await lives.goes_on(3)
    await lives.remembered()
    await lives.kill()
    other = replace(wanted, tags=connection("", *reversed(NODES)).tags)
    lives.begin(other, SETTINGS)
    await lives.goes_on(3)
    await lives.remembered()
    await lives.kill()
    lives.begin(other, replace(SETTINGS, queue_size=7))
    await lives.goes_on(3)
    assert lives.counted(Counter.RESUMED_SESSIONS) == 0


async def test_the_file_is_for_its_owner_only_and_goes_with_the_connection(
    patient: OpcuaServer, lives: Lives
) -> None:
    lives.begin(connection(to(lives, patient), *NODES), SETTINGS)
    await lives.remembered()
    (path,) = lives.files
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    await lives.remove()
    assert list(lives.folder.iterdir()) == []


async def test_a_process_that_stops_keeps_its_subscriptions_for_the_next_one(
    plant: Plant, lives: Lives
) -> None:
    lives.proxy.target = ("127.0.0.1", plant.port)
    wanted = connection(f"opc.tcp://127.0.0.1:{lives.proxy.port}/plant", "ns=1;s=pressure")
    lives.begin(wanted, SETTINGS)
    await until(lambda: lives.journal.values)
    await lives.remembered()
    await lives.stop()
    assert plant.subscriptions == 1
    for value in (1.0, 2.0, 3.0):
        await plant.write("pressure", value)
    lives.begin(wanted, SETTINGS)
    await until(lambda: lives.journal.values == {1: [0.0, 1.0, 2.0, 3.0]})
    assert lives.journal.gaps == set()
    assert plant.subscriptions == 1
    await until(lambda: plant.unacknowledged == 0)
    await lives.remove()
    await until(lambda: plant.subscriptions == 0)


async def test_stopping_and_starting_again_and_again_loses_nothing(
    patient: OpcuaServer, lives: Lives
) -> None:
    wanted = connection(to(lives, patient), *NODES)
    lives.begin(wanted, SETTINGS)
    await lives.goes_on(3)
    await lives.remembered()
    for life in range(5):
        await lives.stop()
        lives.begin(wanted, SETTINGS)
        await asyncio.sleep(0.05 * life)
    await lives.goes_on()
    assert lives.journal.breaks == []
    assert lives.journal.gaps == set()


async def test_a_server_sees_no_acknowledgement_before_the_values_are_durable(
    plant: Plant, tenant: Tenant
) -> None:
    tenant.sink.keeps_waiting = True
    tenant.connect(connection(plant.endpoint, "ns=1;s=pressure"))
    for value in range(1, 6):
        await plant.write("pressure", float(value))
        await until(lambda: value in tenant.sink.drain().value)  # noqa: B023  (called at once)
    await until(lambda: tenant.counted(Counter.KEEP_ALIVES) >= 3)
    assert plant.unacknowledged == tenant.counted(Counter.MESSAGES)
    tenant.sink.sync()
    await until(lambda: plant.unacknowledged == 0)
    assert tenant.counted(Counter.REFUSED_ACKS) == 0


async def test_while_the_journal_takes_nothing_the_server_keeps_everything(
    patient: OpcuaServer, lives: Lives
) -> None:
    wanted = connection(to(lives, patient), *NODES)
    # The session would not outlive the pause without a sign of life, nor would the connection its watchdog.
    settings = replace(SETTINGS, keep_alive_count=3, session_timeout_s=1.5, request_timeout_s=0.5)
    lives.begin(wanted, settings)
    await lives.goes_on(5)
    lives.sink.accept(False)
    messages = lives.counted(Counter.MESSAGES)
    await asyncio.sleep(2.5)
    assert lives.counted(Counter.MESSAGES) <= messages + settings.publish_requests
    assert lives.sink.connected
    lives.sink.accept(True)
    await lives.goes_on(150)
    assert lives.journal.breaks == []
    assert lives.journal.gaps == set()
    assert lives.counted(Counter.RECONNECTS) == 0


async def test_all_that_is_known_of_each_tag_is_known_to_the_next_process(
    open62541_server: OpcuaServer, lives: Lives
) -> None:
    nodes = (
        "ns=1;s=tag.0",
        "/Objects/1:Tags/1:tag&.1",
        "ns=1;s=array.counter[1]",
        "nsu=urn:scada-engine:moving;s=moved",
        "ns=1;s=enum.State",
        "ns=1;s=nothing",
        "/Objects/1:Tags/1:nothing",
        "nsu=urn:nowhere;s=x",
        "not a node id",
        "ns=1;s=plain",
    )
    read_by_turns = {"ns=1;s=plain": ItemSettings(read_mode="poll")}
    tags = tags_of(nodes, read_by_turns, {"ns=1;s=enum.State": "ENUM"})
    wanted = connection(to(lives, open62541_server), tags=tags, poll_interval_seconds=1)
    settings = replace(SETTINGS, request_timeout_s=5.0)
    learned: list[int] = []

    async def lived() -> tuple[ConnectionReport, Monitoring]:
        lives.begin(wanted, settings, learn=lambda _slots, names: learned.append(len(names)))
        await until(lambda: lives.sink.connected)
        await lives.remembered()
        report = lives.sink.reports[-1]
        assert report.monitoring is not None
        return report, report.monitoring

    first, before = await lived()
    await lives.kill()
    second, after = await lived()
    assert lives.counted(Counter.RESUMED_SESSIONS) == 1
    assert learned == [1, 1]
    assert (second.error, second.monitored, second.missing) == (first.error, first.monitored, first.missing)
    assert second.missing
    assert second.revised == first.revised
    for name in ("status", "reason", "item_id", "subscription", "sampling_ms", "queue_size", "polled"):
        assert np.array_equal(getattr(after, name), getattr(before, name)), name
    assert after.ways == before.ways
    assert before.elements is not None
    assert after.elements is not None
    assert np.array_equal(after.elements, before.elements)
    every = np.arange(len(nodes), dtype=np.int32)
    assert after.addresses.wire(every)[:2] == before.addresses.wire(every)[:2]
    assert after.refusals(9) == before.refusals(9)
    await until(lambda: {1, 2, 3, 4, 5, 10} <= lives.journal.values.keys())
    at = len(lives.journal.values[3])
    await until(lambda: len(lives.journal.values[3]) > at)
    assert len(lives.journal.values[3]) == len(set(lives.journal.values[3]))


async def test_a_disk_that_takes_no_file_costs_nothing_but_the_file_and_is_tried_again(
    patient: OpcuaServer, lives: Lives, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tending, "_SAVE_AGAIN_FIRST_S", 0.1)
    lives.folder.write_bytes(b"no folder")
    wanted = connection(to(lives, patient), *NODES)
    lives.begin(wanted, SETTINGS)
    await lives.goes_on()
    assert lives.journal.breaks == []
    lives.folder.unlink()
    await lives.remembered()
    await lives.kill()
    lives.begin(wanted, SETTINGS)
    await lives.goes_on()
    assert lives.journal.breaks == []
    assert lives.counted(Counter.RESUMED_SESSIONS) == 1
