"""The REST process: tenants, start, limits, a database that goes away, stop, and what describes it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from engine.metrics import ProcessState
from tests.end_to_end.engine_process import until
from tests.servers.databases import MasterAndTenant, Server, migrated_master_and_tenant
from tests.workers.rest.conftest import ACME, World, settings_for
from tests.workers.rest.rest_process import Answer, RunningRest, running_rest
from tests.workers.rpc.test_front import proxied

CONNECTIONS = "/scada/connections"


@pytest.fixture
def one_tenant(any_server: Server) -> Iterator[MasterAndTenant]:
    """A master that knows one tenant."""
    with migrated_master_and_tenant(any_server) as databases:
        yield databases


def test_the_tenant_comes_from_the_header_and_from_nowhere_else(rest: RunningRest) -> None:
    assert rest.get(CONNECTIONS, ACME).status == 200
    status, field, message = rest.get(CONNECTIONS).problem
    assert (status, field) == (401, "X-Tenant")
    assert "X-Tenant" in message
    refusals = [
        rest.get(CONNECTIONS, {"X-Tenant": slug}).problem for slug in ("closed", "never-was", "ACME", "")
    ]
    assert {(status, field) for status, field, _ in refusals} == {(403, "X-Tenant")}
    # Nobody learns which tenants there are.
    assert len({message for _, _, message in refusals}) == 1


def test_a_tenant_that_is_named_twice_is_nobody(rest: RunningRest) -> None:
    head = b"GET /scada/connections HTTP/1.1\r\nHost: localhost\r\nX-Tenant: acme\r\nX-Tenant: zenith\r\n"
    with socket.create_connection(("127.0.0.1", rest.port), timeout=10) as client:
        client.sendall(head + b"Connection: close\r\n\r\n")
        assert client.recv(64).startswith(b"HTTP/1.1 401 ")


def test_the_only_tenant_needs_no_header_until_it_is_disabled(
    one_tenant: MasterAndTenant, tmp_path: Path
) -> None:
    with running_rest(settings_for(one_tenant.master_dsn), tmp_path) as rest:
        rest.wait_ready()
        assert rest.get(CONNECTIONS).status == 200
        with psycopg.connect(one_tenant.master_dsn) as master:
            master.execute("update tenants set status = 'disabled'")
        until("the tenant is refused", lambda: rest.get(CONNECTIONS).status == 401)


def test_every_answer_carries_the_request_id_of_the_caller_or_a_new_one(rest: RunningRest) -> None:
    for path in (CONNECTIONS, "/nowhere", "/docs"):
        assert rest.get(path, {"X-Request-Id": "order-7", **ACME}).headers["X-Request-Id"] == "order-7"
        assert len(rest.get(path, ACME).headers["X-Request-Id"]) == 32
    unfit = rest.get(CONNECTIONS, {"X-Request-Id": "x" * 129, **ACME})
    assert len(unfit.headers["X-Request-Id"]) == 32


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example:8080", 421),
        ("localhost.evil.example", 421),
        ("", 421),
        ("10.0.0.5", 421),
        ("[::1]:1", 200),
    ],
)
def test_a_web_page_that_borrows_a_browser_is_refused(rest: RunningRest, host: str, status: int) -> None:
    answer = rest.get("/openapi.json", {"Host": host})
    assert answer.status == status
    if status == 421:
        assert "Host" in answer.problem[2]


def test_what_is_no_route_or_no_method_is_said_in_json(rest: RunningRest) -> None:
    assert rest.get("/nowhere").problem == (404, None, "not found")
    answer = rest.send("DELETE", CONNECTIONS)
    assert answer.problem == (405, None, "method not allowed")
    assert answer.headers["Allow"]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b""),
        (400, b"{"),
        (400, b"\xff\xfe"),
        (400, b"null"),
        (400, b"[" * 100_000),
        (400, b'{"name": ' + b"9" * 5_000 + b"}"),
        (413, b" " * ((1 << 20) + 1)),
    ],
)
def test_a_body_that_cannot_be_read_is_refused(rest: RunningRest, status: int, body: bytes) -> None:
    assert rest.post(CONNECTIONS, body, ACME).problem[:2] == (status, "body")
    assert rest.get(CONNECTIONS, ACME).status == 200


def test_a_form_of_a_web_page_is_not_json(rest: RunningRest) -> None:
    answer = rest.post(CONNECTIONS, b'{"name": "x"}', {"Content-Type": "text/plain", **ACME})
    assert answer.problem[:2] == (400, "body")


def test_what_is_not_http_is_refused_and_hurts_nobody(rest: RunningRest) -> None:
    for nonsense in (b"\x16\x03\x01" * 50 + b"\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"y" * 70_000):
        with socket.create_connection(("127.0.0.1", rest.port), timeout=10) as client:
            client.sendall(nonsense)
            assert b" 400 " in client.recv(100)
    assert rest.get(CONNECTIONS, ACME).status == 200


def test_the_openapi_document_describes_the_routes_and_what_they_answer(rest: RunningRest) -> None:
    document = rest.get("/openapi.json").json
    routes = {(method, path) for path, methods in document["paths"].items() for method in methods}
    assert routes == {
        ("post", "/scada/connections"),
        ("get", "/scada/connections"),
        ("post", "/scada/connections/{id}/tags"),
        ("get", "/scada/readings"),
    }
    readings = document["paths"]["/scada/readings"]["get"]
    names = {each["name"]: each["required"] for each in readings["parameters"]}
    assert names == {
        "wellId": True, "from": True, "to": False, "limit": False, "cursor": False, "X-Tenant": False,
    }  # fmt: skip
    assert {"200", "400", "401", "403", "404", "503"} <= set(readings["responses"])
    assert "422" not in readings["responses"]
    schemas = document["components"]["schemas"]
    assert "password" in schemas["ConnectionBody"]["properties"]
    assert "password" not in schemas["ConnectionView"]["properties"]
    assert "HTTPValidationError" not in schemas


def test_the_pages_that_describe_it_need_no_other_host(rest: RunningRest) -> None:
    page = rest.get("/docs").body.decode()
    assert "http://" not in page
    assert "https://" not in page
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert f"/static-offline-docs/{asset}" in page
        assert len(rest.get(f"/static-offline-docs/{asset}").body) > 100_000
    assert rest.get("/static-offline-docs/../__init__.py").status == 404


def test_one_tenant_cannot_take_all_requests(rest: RunningRest, world: World) -> None:
    with psycopg.connect(world.databases.tenant_dsn) as holder, ThreadPoolExecutor(16) as callers:
        holder.execute("lock table scada_connections in access exclusive mode")
        held = [callers.submit(rest.get, CONNECTIONS, ACME) for _ in range(16)]

        def refused() -> bool:
            try:
                return rest.send("GET", CONNECTIONS, headers=ACME, timeout_s=0.5).status == 429
            except TimeoutError:
                return False

        until("one request more is refused", refused)
        assert rest.get(CONNECTIONS, {"X-Tenant": "zenith"}).json == []
        holder.rollback()
        # A probe that gave up holds a place too, and who waited long for a connection is told to come again.
        assert {each.result(30).status for each in held} <= {200, 429, 503}


def test_a_database_that_is_down_is_503_and_comes_back(one_tenant: MasterAndTenant, tmp_path: Path) -> None:
    with proxied(one_tenant.master_dsn) as (dsn, proxy):
        proxy.refuse()
        with running_rest(settings_for(dsn), tmp_path) as rest:
            until("the port is open", lambda: status_of(rest) == 503)
            assert rest.state is ProcessState.STARTING
            proxy.accept()
            rest.wait_ready()
            assert status_of(rest) == 200
            proxy.refuse()
            status, field, message = rest.get(CONNECTIONS).problem
            assert (status, field) == (503, None)
            assert "127.0.0.1" not in message
            proxy.accept()
            until("the database answers again", lambda: status_of(rest) == 200)


def status_of(rest: RunningRest) -> int:
    try:
        return rest.get(CONNECTIONS).status
    except ConnectionError:
        return 0


def test_a_tenant_database_without_tables_is_503(one_tenant: MasterAndTenant, tmp_path: Path) -> None:
    with psycopg.connect(one_tenant.tenant_dsn) as tenant:
        tenant.execute("drop schema public cascade")
    with running_rest(settings_for(one_tenant.master_dsn), tmp_path) as rest:
        rest.wait_ready()
        assert rest.get(CONNECTIONS).status == 503


def test_a_tenant_database_of_a_newer_engine_is_503_and_named_in_the_log(
    one_tenant: MasterAndTenant, tmp_path: Path
) -> None:
    with psycopg.connect(one_tenant.tenant_dsn) as tenant:
        tenant.execute(
            "insert into schema_migrations (version, name, checksum, engine_version)"
            " values (9999, 'of_the_future', '', '9.9')"
        )
    with running_rest(settings_for(one_tenant.master_dsn), tmp_path) as rest:
        rest.wait_ready()
        assert rest.get(CONNECTIONS).status == 503
        assert "9999_of_the_future of engine 9.9" in rest.log.read_text()


def test_a_password_without_a_key_to_seal_it_is_refused(one_tenant: MasterAndTenant, tmp_path: Path) -> None:
    with running_rest(settings_for(one_tenant.master_dsn, secrets_key=""), tmp_path) as rest:
        rest.wait_ready()
        body = {
            "wellId": "00000000-0000-0000-0000-000000000001",
            "name": "PLC",
            "endpointUrl": "opc.tcp://10.0.0.5:4840",
            "username": "reader",
            "password": "hunter2-and-more",
        }
        status, _, message = rest.post(CONNECTIONS, body).problem
        assert status == 503
        assert "secrets_key" in message
        assert "hunter2" not in rest.log.read_text() + message


def test_a_taken_port_is_one_clear_line(one_tenant: MasterAndTenant, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with running_rest(settings_for(one_tenant.master_dsn, rest_port=port), tmp_path) as rest:
            assert rest.process.wait(20) == 2
            (line,) = rest.log.read_text().splitlines()
    assert line.startswith(f"scada-engine: rest: rest_port: port {port} on 127.0.0.1 cannot be opened")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.com", ""])
def test_a_host_beyond_this_machine_is_refused(
    one_tenant: MasterAndTenant, tmp_path: Path, host: str
) -> None:
    with running_rest(settings_for(one_tenant.master_dsn, host=host), tmp_path) as rest:
        assert rest.process.wait(20) == 2
        (line,) = rest.log.read_text().splitlines()
    assert "host: " in line
    assert "loopback" in line


def test_term_ends_a_quiet_process_at_once_in_spite_of_idle_connections(
    one_tenant: MasterAndTenant, tmp_path: Path
) -> None:
    with running_rest(settings_for(one_tenant.master_dsn), tmp_path) as rest:
        rest.wait_ready()
        with socket.create_connection(("127.0.0.1", rest.port)):
            assert rest.get(CONNECTIONS).status == 200
            rest.process.send_signal(signal.SIGTERM)
            assert rest.process.wait(5) == 0
        assert rest.state is ProcessState.STOPPED
        assert '"error"' not in rest.log.read_text()


def test_term_lets_a_running_request_end(world: World, tmp_path: Path) -> None:
    with (
        running_rest(settings_for(world.databases.master_dsn), tmp_path) as rest,
        ThreadPoolExecutor(1) as caller,
    ):
        rest.wait_ready()
        with psycopg.connect(world.databases.tenant_dsn) as holder:
            answer = held_request(rest, world, holder, caller)
            rest.process.send_signal(signal.SIGTERM)
            until("it stops", lambda: rest.state is ProcessState.STOPPING)
            holder.rollback()
            assert answer.result(20).status == 200
        assert rest.process.wait(10) == 0


@pytest.mark.parametrize(("deadline_s", "signals"), [(0.5, 1), (60.0, 2)])
def test_a_request_that_does_not_end_is_cut_at_the_deadline_or_by_a_second_term(
    world: World, tmp_path: Path, deadline_s: float, signals: int
) -> None:
    settings = settings_for(world.databases.master_dsn, stop_deadline_s=deadline_s)
    with running_rest(settings, tmp_path) as rest, ThreadPoolExecutor(1) as caller:
        rest.wait_ready()
        with psycopg.connect(world.databases.tenant_dsn) as holder:
            answer = held_request(rest, world, holder, caller)
            for _ in range(signals):
                rest.process.send_signal(signal.SIGTERM)
                until("it stops", lambda: rest.state is ProcessState.STOPPING)
            assert rest.process.wait(10) == 0
            with pytest.raises((ConnectionError, OSError)):
                answer.result(10)


def held_request(
    rest: RunningRest, world: World, holder: psycopg.Connection, caller: ThreadPoolExecutor
) -> Future[Answer]:
    """Begin a request that waits in the database until `holder` gives up its lock."""
    holder.execute("lock table scada_connections in access exclusive mode")
    answer = caller.submit(rest.get, CONNECTIONS, ACME)
    with psycopg.connect(world.databases.server.dsn, autocommit=True) as observer:
        until(
            "the request waits",
            lambda: (
                observer.execute(
                    "select from pg_stat_activity where application_name = 'scada-engine rest'"
                    " and state = 'active' and wait_event_type = 'Lock'"
                ).fetchone()
                is not None
            ),
        )
    return answer


def test_clients_that_send_no_whole_request_or_take_no_answer_are_let_go() -> None:
    body = """
import asyncio, sys, uvloop
from workers.rest import server
server.SILENCE_MOST_S = 0.2

async def application(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"x" * 50_000_000})

async def main():
    import socket
    listening = socket.create_server(("127.0.0.1", 0))
    running = server.RestServer(application)
    serving = asyncio.create_task(running.serve(sockets=[listening]))
    await running.listening.wait()
    host, port = listening.getsockname()
    silent = await asyncio.open_connection(host, port)
    half = await asyncio.open_connection(host, port)
    half[1].write(b"GET / HTTP/1.1\\r\\nHost: ")
    deaf_socket = socket.create_connection((host, port))
    deaf_socket.sendall(b"GET / HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
    slow = await asyncio.open_connection(host, port, limit=1 << 16)
    slow[1].write(b"GET / HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
    taken = 0
    while taken < 50_000_000:
        taken += len(await slow[0].read(1 << 20))
        await asyncio.sleep(0.01)
    slow_one = slow[1].get_extra_info("sockname")
    async with asyncio.timeout(10):
        while any(each.client != slow_one for each in running.server_state.connections):
            await asyncio.sleep(0.05)
    print("let go")
    running.should_exit = True
    await serving

uvloop.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", body], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.returncode) == ("let go\n", 0), done.stderr
