"""The master database at the address of a file: a password that changes in any order, a file that is not there."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg.sql import SQL, Identifier, Literal

from engine.database_pool import DatabasePool
from engine.errors import DatabaseUnavailable
from engine.settings import Settings, load
from tests.servers.databases import MasterAndTenant
from workers.master_database import MasterDatabase

APPLICATION = "test master"


@dataclass
class Login:
    """A role that may read the master database, and the file with the DSN that logs in as it."""

    databases: MasterAndTenant
    role: str
    file: Path

    def dsn(self, password: str) -> str:
        """Return the master's DSN with a password."""
        parts = urlsplit(self.databases.master_dsn)
        return urlunsplit(parts._replace(netloc=f"{self.role}:{password}@{parts.hostname}:{parts.port}"))

    def tenant_dsn(self, password: str) -> str:
        """Return the tenant's."""
        return urlunsplit(
            urlsplit(self.dsn(password))._replace(path=urlsplit(self.databases.tenant_dsn).path)
        )

    def write(self, password: str) -> None:
        """Let the file have this password."""
        self.file.write_text(self.dsn(password) + "\n")

    def change(self, password: str) -> None:
        """Let the server want this password, and end what logged in with another one."""
        self.execute(SQL("alter role {} password {}").format(Identifier(self.role), Literal(password)))

    def end_sessions(self) -> None:
        """End all sessions of the role."""
        self.execute(
            SQL("select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = {}").format(
                Literal(self.role)
            )
        )

    def execute(self, statement: psycopg.sql.Composed) -> None:
        """Do something as the superuser."""
        with psycopg.connect(self.databases.master_dsn, autocommit=True) as admin:
            admin.execute(statement)


@pytest.fixture
def login(master_and_tenant: MasterAndTenant, tmp_path: Path) -> Iterator[Login]:
    made = Login(master_and_tenant, f"engine_{secrets.token_hex(4)}", tmp_path / "database-url")
    role = Identifier(made.role)
    made.execute(SQL("create role {} login password 'one'").format(role))
    made.execute(SQL("grant select on tenants to {}").format(role))
    made.write("one")
    yield made
    made.end_sessions()
    made.execute(SQL("drop owned by {0}; drop role {0}").format(role))


@pytest.fixture
async def master(login: Login) -> AsyncIterator[MasterDatabase]:
    pool = DatabasePool(4, retry_most_s=0.0)
    settings = load(environment={"DATABASE_URL_FILE": str(login.file)})
    yield MasterDatabase(settings, pool, APPLICATION)
    await pool.close()


async def dsn_of(master: MasterDatabase) -> str:
    (tenant,) = await master.tenants()
    return tenant.dsn


async def test_a_password_that_changes_in_the_server_first_works_once_the_file_has_it(
    login: Login, master: MasterDatabase
) -> None:
    assert await dsn_of(master) == login.tenant_dsn("one")
    login.change("two")
    assert await dsn_of(master) == login.tenant_dsn("one")
    login.end_sessions()
    with pytest.raises(DatabaseUnavailable, match="password authentication failed") as caught:
        await master.tenants()
    assert caught.value.sqlstate == "28000"
    login.write("two")
    assert await dsn_of(master) == login.tenant_dsn("two")


async def test_a_password_that_changes_in_the_file_first_is_taken_once_the_server_wants_it(
    login: Login, master: MasterDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    login.write("two")
    for _ in range(3):
        assert await dsn_of(master) == login.tenant_dsn("one")
    assert capsys.readouterr().out.count("the new address of the master database does not work") == 1
    login.change("two")
    assert await dsn_of(master) == login.tenant_dsn("two")
    login.end_sessions()
    assert await dsn_of(master) == login.tenant_dsn("two")


async def test_a_file_that_is_empty_or_gone_or_nonsense_for_a_while_changes_nothing(
    login: Login, master: MasterDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in ("", "nonsense"):
        login.file.write_text(text)
        assert await dsn_of(master) == login.tenant_dsn("one")
    login.file.unlink()
    assert await dsn_of(master) == login.tenant_dsn("one")
    said = capsys.readouterr().out
    assert said.count("warning") == 3
    assert "one@" not in said


async def test_an_address_that_came_from_no_file_stays(login: Login) -> None:
    pool = DatabasePool(1, retry_most_s=0.0)
    master = MasterDatabase(Settings(database_url=login.dsn("one")), pool, APPLICATION)
    login.write("two")
    assert await dsn_of(master) == login.tenant_dsn("one")
    await master.close()
    await pool.close()
