"""The front as a process: start, health, reflection, limits, a database that goes away, stop."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc
import psycopg
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from psycopg.conninfo import conninfo_to_dict

from engine.metrics import ProcessState
from scada.v1 import readings_pb2 as pb
from scada.v1.readings_pb2_grpc import ReadingServiceStub
from tests.end_to_end.engine_process import until
from tests.servers.cutting_proxy import CuttingProxy
from tests.servers.databases import MasterAndTenant, Server, migrated_master_and_tenant
from tests.workers.rpc.conftest import ACME, END_US, START_US, World, moment, settings_for
from tests.workers.rpc.front_process import RunningFront, running_front

T = TypeVar("T")
# Where no test gets as far as to ask the database.
NO_DATABASE = "postgresql://127.0.0.1:9/none"
SERVICE = "scada.v1.ReadingService"
LATEST = pb.GetLatestReadingsRequest()


@pytest.fixture
def one_tenant(any_server: Server) -> Iterator[MasterAndTenant]:
    """A master that knows one tenant."""
    with migrated_master_and_tenant(any_server) as databases:
        yield databases


class Proxy:
    """A CuttingProxy in a thread of its own, for tests that block."""

    def __init__(self, host: str, port: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._proxy: CuttingProxy = self._run(CuttingProxy.start(host, port))
        self.port = self._proxy.port

    def refuse(self) -> None:
        self._run(self._called(self._proxy.refuse))

    def accept(self) -> None:
        self._run(self._proxy.accept())

    def close(self) -> None:
        self._run(self._proxy.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _called(self, function: Callable[[], None]) -> None:
        function()


@contextmanager
def proxied(dsn: str) -> Iterator[tuple[str, Proxy]]:
    """Yield the DSN by way of a proxy, and the proxy."""
    place = conninfo_to_dict(dsn)
    proxy = Proxy(str(place.get("host") or "127.0.0.1"), int(place.get("port") or 5432))
    try:
        yield psycopg.conninfo.make_conninfo(dsn, host="127.0.0.1", port=proxy.port), proxy
    finally:
        proxy.close()


def code_of(front: RunningFront, *, timeout_s: float = 30) -> str:
    """Return the status code of a call without a tenant."""
    try:
        front.stub.GetLatestReadings(LATEST, timeout=timeout_s)
    except grpc.RpcError as exc:
        return str(exc.code().name)
    return "OK"


def test_the_only_tenant_needs_no_header(one_tenant: MasterAndTenant, tmp_path: Path) -> None:
    with running_front(settings_for(one_tenant.master_dsn), tmp_path) as front:
        front.wait_serving()
        assert code_of(front) == "OK"


def test_a_tenant_that_is_disabled_is_refused_a_moment_later(
    one_tenant: MasterAndTenant, tmp_path: Path
) -> None:
    with running_front(settings_for(one_tenant.master_dsn), tmp_path) as front:
        front.wait_serving()
        with psycopg.connect(one_tenant.master_dsn) as master:
            master.execute("update tenants set status = 'disabled'")
        until("the tenant is refused", lambda: code_of(front) == "UNAUTHENTICATED")


def test_health_knows_the_service_and_reflection_lists_it(front: RunningFront) -> None:
    assert (front.health(SERVICE), front.health("other")) == ("SERVING", "NOT_FOUND")
    assert front.state is ProcessState.READY
    database = ProtoReflectionDescriptorDatabase(front.channel)
    assert {SERVICE, "grpc.health.v1.Health"} <= set(database.get_services())
    methods = DescriptorPool(database).FindServiceByName(SERVICE).methods
    assert [method.name for method in methods] == ["StreamReadings", "ListReadings", "GetLatestReadings"]
    for other, method in (
        ("scada.v1.GapService", "ListGaps"),
        ("scada.v1.QuarantineService", "DropQuarantined"),
    ):
        assert front.health(other) == "SERVING"
        assert method in DescriptorPool(database).FindServiceByName(other).methods_by_name


def test_health_waits_for_the_master_database(one_tenant: MasterAndTenant, tmp_path: Path) -> None:
    with proxied(one_tenant.master_dsn) as (dsn, proxy):
        proxy.refuse()
        with running_front(settings_for(dsn), tmp_path) as front:
            until("the port is open", lambda: front.health() == "NOT_SERVING")
            assert front.state is ProcessState.STARTING
            assert code_of(front) == "UNAVAILABLE"
            proxy.accept()
            front.wait_serving()
            assert code_of(front) == "OK"


def test_a_database_that_is_down_is_unavailable_and_comes_back(
    one_tenant: MasterAndTenant, tmp_path: Path
) -> None:
    with proxied(one_tenant.master_dsn) as (dsn, proxy), running_front(settings_for(dsn), tmp_path) as front:
        front.wait_serving()
        proxy.refuse()
        assert code_of(front) == "UNAVAILABLE"
        proxy.accept()
        until("the database answers again", lambda: code_of(front) == "OK")


def test_a_tenant_database_without_tables_is_unavailable(one_tenant: MasterAndTenant, tmp_path: Path) -> None:
    with psycopg.connect(one_tenant.tenant_dsn) as tenant:
        tenant.execute("drop schema public cascade")
    with running_front(settings_for(one_tenant.master_dsn), tmp_path) as front:
        front.wait_serving()
        assert code_of(front) == "UNAVAILABLE"
        assert "postgresql" not in front.log.read_text()


def test_a_taken_port_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with running_front(settings_for(NO_DATABASE, grpc_port=port), tmp_path) as front:
            assert front.process.wait(20) == 2
            (line,) = front.log.read_text().splitlines()
    assert f"port {port}" in line


def test_two_fronts_never_share_a_port(front: RunningFront, tmp_path: Path) -> None:
    with running_front(settings_for(NO_DATABASE, grpc_port=front.port), tmp_path) as second:
        assert second.process.wait(20) == 2
    assert front.health() == "SERVING"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.com", ""])
def test_a_host_beyond_this_machine_is_refused(tmp_path: Path, host: str) -> None:
    with running_front(settings_for(NO_DATABASE, host=host), tmp_path) as front:
        assert front.process.wait(20) == 2
        (line,) = front.log.read_text().splitlines()
    assert "loopback" in line
    assert "host: " in line


def test_a_request_that_is_too_large_is_refused(front: RunningFront) -> None:
    huge = pb.GetLatestReadingsRequest(well_id="x" * (2 << 20))
    with pytest.raises(grpc.RpcError) as raised:
        front.stub.GetLatestReadings(huge, metadata=ACME, timeout=30)
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert front.health() == "SERVING"


def test_one_tenant_cannot_take_all_calls(front: RunningFront, world: World) -> None:
    with psycopg.connect(world.databases.tenant_dsn) as holder:
        holder.execute("lock table tag_mappings in access exclusive mode")
        held = [front.stub.GetLatestReadings.future(LATEST, metadata=ACME, timeout=30) for _ in range(32)]

        def refused() -> bool:
            try:
                front.stub.GetLatestReadings(LATEST, metadata=ACME, timeout=0.2)
            except grpc.RpcError as exc:
                return exc.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            return False

        until("one call more is refused", refused)
        zenith = (("x-tenant", "zenith"),)
        assert not front.stub.GetLatestReadings(LATEST, metadata=zenith, timeout=10).readings
    assert all(call.result(30).readings for call in held)


def test_a_flood_of_calls_is_refused_beyond_a_bound_and_the_front_goes_on(
    front: RunningFront, world: World
) -> None:
    """Over several connections: what is beyond the tenant's share, or the front's, is refused at once, never queued."""
    channels = [
        grpc.insecure_channel(front.address, options=[("grpc.use_local_subchannel_pool", 1)])
        for _ in range(6)
    ]
    stubs: list[Any] = [ReadingServiceStub(channel) for channel in channels]  # type: ignore[no-untyped-call]
    with psycopg.connect(world.databases.tenant_dsn) as holder:
        holder.execute("lock table tag_mappings in access exclusive mode")
        calls = [
            stub.GetLatestReadings.future(LATEST, metadata=ACME, timeout=60)
            for stub in stubs
            for _ in range(90)
        ]
        until("those beyond the bound are refused", lambda: sum(call.done() for call in calls) >= 508)
        codes = Counter(call.code() for call in calls if call.done())
        assert set(codes) == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert all(call.result(30).readings for call in calls if call.code() is grpc.StatusCode.OK)
    assert front.health() == "SERVING"
    for channel in channels:
        channel.close()


def test_metadata_that_is_too_large_is_refused(front: RunningFront) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        front.stub.GetLatestReadings(LATEST, metadata=(*ACME, ("x-many", "x" * (1 << 16))), timeout=30)
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert front.health() == "SERVING"


def test_term_ends_a_quiet_front_at_once_in_spite_of_health_watchers(
    one_tenant: MasterAndTenant, tmp_path: Path
) -> None:
    with running_front(settings_for(one_tenant.master_dsn), tmp_path) as front:
        front.wait_serving()
        watch = HealthStub(front.channel).Watch(HealthCheckRequest(service=SERVICE))
        assert next(watch).status == 1
        front.process.send_signal(signal.SIGTERM)
        assert front.process.wait(5) == 0
        assert front.state is ProcessState.STOPPED
        assert "Error" not in front.log.read_text()


def test_term_lets_a_running_call_end(any_server: Server, world: World, tmp_path: Path) -> None:
    with running_front(settings_for(world.databases.master_dsn), tmp_path) as front:
        front.wait_serving()
        request = pb.StreamReadingsRequest(
            tag_ids=world.tags, start_time=moment(START_US), end_time=moment(END_US)
        )
        stream = front.stub.StreamReadings(request, metadata=ACME, timeout=30)
        rows = len(next(stream).columns.time_us)
        front.process.send_signal(signal.SIGTERM)
        rows += sum(len(message.columns.time_us) for message in stream)
        assert rows == len(world.stored)
        assert front.process.wait(10) == 0


def test_a_call_that_does_not_end_is_cut_at_the_deadline_or_by_a_second_term(
    world: World, tmp_path: Path
) -> None:
    for deadline_s, signals in ((0.5, 1), (60.0, 2)):
        settings = settings_for(world.databases.master_dsn, stop_deadline_s=deadline_s)
        with (
            running_front(settings, tmp_path) as front,
            psycopg.connect(world.databases.tenant_dsn) as holder,
        ):
            front.wait_serving()
            holder.execute("lock table tag_mappings in access exclusive mode")
            call = front.stub.GetLatestReadings.future(LATEST, metadata=ACME, timeout=60)
            until("the call waits", lambda: _waiting_queries(world) == 1)
            for _ in range(signals):
                front.process.send_signal(signal.SIGTERM)
                until("the front stops", lambda: front.state is ProcessState.STOPPING)
            assert front.process.wait(10) == 0
            assert call.code() is not grpc.StatusCode.OK


def _waiting_queries(world: World) -> int:
    with psycopg.connect(world.databases.server.dsn) as observer:
        found = observer.execute(
            "select count(*) from pg_stat_activity where application_name = 'scada-engine front'"
            " and state = 'active' and wait_event_type = 'Lock'"
        ).fetchone()
    return int(found[0]) if found else 0
