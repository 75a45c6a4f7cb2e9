"""migrations/**.sql on real servers: what the tables refuse, and scada_readings for old readers and writers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.errors import CheckViolation, ForeignKeyViolation, NotNullViolation, UniqueViolation

from engine.catalog import DATA_TYPES, SECURITY_MODES, SECURITY_POLICIES
from engine.readings import quality_of
from tests.servers.databases import MasterAndTenant, Server, migrated_master_and_tenant

SOMEONE = uuid4()
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Tenant:
    """A connection to a migrated tenant, with a well and a connection to hang tags on."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection = connection
        self.well = self.add("wells", name="Permian 1")
        self.opcua = self.add_connection()

    def add(self, table: str, **columns: Any) -> UUID:
        columns |= {"tenant_id": SOMEONE, "created_by": SOMEONE, "updated_by": SOMEONE}
        names = ", ".join(f'"{name}"' for name in columns)
        places = ", ".join(["%s"] * len(columns))
        statement = f"insert into {table} ({names}) values ({places}) returning id"
        with self.connection.transaction():  # a refused row does not spoil what comes after it
            found = self.connection.execute(statement.encode(), list(columns.values())).fetchone()
        assert found is not None
        identity: UUID = found[0]
        return identity

    def add_connection(self, **columns: Any) -> UUID:
        defaults = {
            "well_id": self.well,
            "name": "RTU",
            "endpoint_url": "opc.tcp://localhost:4840",
            "security_mode": "None",
            "security_policy": "None",
        }
        return self.add("scada_connections", **defaults | columns)

    def add_tag(self, node: str, **columns: Any) -> int:
        defaults = {
            "connection_id": self.opcua,
            "well_id": self.well,
            "tag_name": node,
            "data_type": "DOUBLE",
        }
        identity = self.add("tag_mappings", opc_node_id=node, **defaults | columns)
        return int(self.one("select tag_id from tag_mappings where id = %s", identity)[0])

    def write(self, node: str, value: float | None = 1.0, quality: str = "Good", ts: datetime = NOON) -> None:
        statement = (
            "insert into scada_readings (timestamp, well_id, tag_node_id, value, quality)"
            " values (%s, %s, %s, %s, %s)"
        )
        with self.connection.transaction():
            self.connection.execute(statement, [ts, self.well, node, value, quality])

    def one(self, query: str, *values: Any) -> tuple[Any, ...]:
        found = self.connection.execute(query.encode(), values).fetchone()
        assert found is not None
        return found

    def all(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        return self.connection.execute(query.encode(), values).fetchall()


@pytest.fixture(scope="module")
def databases(any_server: Server) -> Iterator[MasterAndTenant]:
    with migrated_master_and_tenant(any_server) as made:
        yield made


@pytest.fixture
def tenant(databases: MasterAndTenant) -> Iterator[Tenant]:
    """An empty tenant: what a test does is rolled back."""
    with psycopg.connect(databases.tenant_dsn) as connection, connection.transaction(force_rollback=True):
        yield Tenant(connection)


@pytest.fixture
def master(databases: MasterAndTenant) -> Iterator[psycopg.Connection]:
    """The master: what a test does is rolled back."""
    with psycopg.connect(databases.master_dsn) as connection, connection.transaction(force_rollback=True):
        yield connection


def test_what_is_written_in_the_seeds_shape_comes_back_in_it(tenant: Tenant) -> None:
    tenant.add_tag("ns=2;s=Well1.Pressure")
    tenant.write("ns=2;s=Well1.Pressure", 12.5, "Uncertain")
    assert tenant.all("select timestamp, well_id, tag_node_id, value, quality from scada_readings") == [
        (NOON, tenant.well, "ns=2;s=Well1.Pressure", 12.5, "Uncertain")
    ]


def test_the_seeds_bulk_insert_from_unnest_works(tenant: Tenant) -> None:
    tag_id = tenant.add_tag("a")
    times = [NOON + timedelta(seconds=i) for i in range(500)]
    tenant.connection.execute(
        "insert into scada_readings (timestamp, well_id, tag_node_id, value, quality)"
        " select * from unnest(%s::timestamptz[], %s::uuid[], %s::text[], %s::float8[], %s::text[])",
        [times, [tenant.well] * 500, ["a"] * 500, [float(i) for i in range(500)], ["Good"] * 500],
    )
    stored = tenant.all("select ts, value from readings where tag_id = %s order by ts", tag_id)
    assert stored == [(ts, float(i)) for i, ts in enumerate(times)]


@pytest.mark.parametrize(
    ("quality", "status"), [("Good", 0), ("Uncertain", 0x40000000), ("Bad", 0x80000000 - (1 << 32))]
)
def test_a_written_quality_becomes_a_status(tenant: Tenant, quality: str, status: int) -> None:
    tenant.add_tag("a")
    tenant.write("a", quality=quality)
    assert tenant.one("select status from readings") == (status,)


@pytest.mark.parametrize(
    "status",
    [0, 0x00000480, 0x3FFFFFFF, 0x40920000, 0x7FFFFFFF, 0x80340000, 0xBFFFFFFF, 0xC0000000, 0xFFFFFFFF],
)
def test_the_quality_in_the_view_is_that_of_the_engine(tenant: Tenant, status: int) -> None:
    tag_id = tenant.add_tag("a")
    as_int4 = status - (1 << 32) if status >= 1 << 31 else status
    tenant.connection.execute("insert into readings values (%s, %s, %s, 1, null)", [NOON, tag_id, as_int4])
    assert tenant.one("select quality from scada_readings") == (quality_of(status).label,)


def test_an_unknown_tag_is_refused_by_name(tenant: Tenant) -> None:
    with pytest.raises(ForeignKeyViolation, match=f'well {tenant.well} has no tag "ns=2;s=Nowhere"'):
        tenant.write("ns=2;s=Nowhere")
    assert tenant.one("select count(*) from readings") == (0,)


def test_a_deleted_tag_takes_no_new_readings_and_its_old_ones_stay_visible(tenant: Tenant) -> None:
    tenant.add_tag("a")
    tenant.write("a")
    tenant.connection.execute("update tag_mappings set deleted_at = now()")
    with pytest.raises(ForeignKeyViolation, match='no tag "a"'):
        tenant.write("a")
    assert tenant.one("select count(*) from scada_readings where well_id = %s", tenant.well) == (1,)


@pytest.mark.parametrize("quality", ["good", "", "GOOD", "Fine", None])
def test_an_unknown_quality_is_refused(tenant: Tenant, quality: str) -> None:
    tenant.add_tag("a")
    with pytest.raises(CheckViolation, match="is not Good, Bad or Uncertain"):
        tenant.write("a", quality=quality)


def test_a_reading_without_a_value_is_in_the_view_with_null(tenant: Tenant) -> None:
    tag_id = tenant.add_tag("a", data_type="STRING")
    tenant.connection.execute("insert into readings values (%s, %s, 0, null, 'open')", [NOON, tag_id])
    assert tenant.one("select value, quality from scada_readings") == (None, "Good")


def test_a_node_of_two_connections_is_written_to_the_first_mapping(tenant: Tenant) -> None:
    first = tenant.add_tag("a")
    tenant.add_tag("a", connection_id=tenant.add_connection(name="PLC"))
    tenant.write("a")
    assert tenant.all("select tag_id from readings") == [(first,)]


def test_readings_is_a_hypertable_of_24_hour_chunks_where_timescaledb_is(
    tenant: Tenant, databases: MasterAndTenant
) -> None:
    tag_id = tenant.add_tag("a")
    for day in range(3):
        tenant.write("a", ts=NOON + timedelta(days=day))
    indexes = tenant.all("select indexdef from pg_indexes where tablename = 'readings'")
    assert [definition.rpartition("btree ")[2] for (definition,) in indexes] == ["(tag_id, ts)"]
    assert tenant.one("select count(*) from readings where tag_id = %s", tag_id) == (3,)
    if databases.server.kind == "embedded":
        assert tenant.all("select from pg_extension where extname = 'timescaledb'") == []
        return
    assert tenant.all(
        "select column_name, time_interval from timescaledb_information.dimensions where hypertable_name = 'readings'"
    ) == [("ts", timedelta(hours=24))]
    assert tenant.one("select count(*) from timescaledb_information.chunks") == (3,)


def test_a_node_may_be_mapped_again_once_its_tag_is_deleted(tenant: Tenant) -> None:
    first = tenant.add_tag("a")
    with pytest.raises(UniqueViolation, match="tag_mappings_node_unique"):
        tenant.add_tag("a")
    for _ in range(2):
        tenant.connection.execute("update tag_mappings set deleted_at = now() where deleted_at is null")
        again = tenant.add_tag("a")
        assert again > first


def test_the_history_of_a_node_mapped_again_is_one_series_in_the_view(tenant: Tenant) -> None:
    tenant.add_tag("a")
    tenant.write("a", 1.0)
    tenant.connection.execute("update tag_mappings set deleted_at = now()")
    tenant.add_tag("a")
    tenant.write("a", 2.0, ts=NOON + timedelta(seconds=1))
    assert tenant.all("select value from scada_readings where tag_node_id = 'a' order by timestamp") == [
        (1.0,),
        (2.0,),
    ]


def test_a_small_scaling_factor_is_kept_exactly(tenant: Tenant) -> None:
    tenant.add_tag("a", scaling_factor="0.000015259", offset="-40.00005")
    assert [str(v) for v in tenant.one('select scaling_factor, "offset" from tag_mappings')] == [
        "0.000015259",
        "-40.00005",
    ]


@pytest.mark.parametrize("column", ["scaling_factor", "offset"])
@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e16"])
def test_a_scaling_that_is_no_finite_number_is_refused(tenant: Tenant, column: str, value: str) -> None:
    with pytest.raises(CheckViolation, match=f"tag_mappings_{column}_check"):
        tenant.add_tag("a", **{column: value})


def test_an_unknown_data_type_is_refused(tenant: Tenant) -> None:
    with pytest.raises(CheckViolation, match="tag_mappings_data_type_check"):
        tenant.add_tag("a", data_type="double")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("security_mode", "none"),
        ("security_mode", "Encrypt"),
        ("security_policy", "Basic512"),
        ("poll_interval_seconds", 0),
        ("poll_interval_seconds", -1),
        ("failover_urls", ["opc.tcp://h:1"] * 9),
        ("failover_urls", [None]),
        ("user_certificate", "without its key"),
        ("user_private_key", "without its certificate"),
    ],
)
def test_a_connection_with_a_setting_that_does_not_exist_is_refused(
    tenant: Tenant, column: str, value: object
) -> None:
    with pytest.raises(CheckViolation, match="scada_connections_"):
        tenant.add_connection(**{column: value})


BAD_ITEM_SETTINGS: list[dict[str, object]] = [
    {"read_mode": "Poll"},
    {"publishing_interval_ms": 0},
    {"publishing_interval_ms": "NaN"},
    {"sampling_interval_ms": -2},
    {"sampling_interval_ms": -0.5},
    {"sampling_interval_ms": 3_600_001},
    {"queue_size": 0},
    {"queue_size": 1_000_001},
    {"deadband_type": "absolute", "deadband_value": 1},
    {"deadband_type": "Absolute"},
    {"deadband_type": "Absolute", "deadband_value": -1},
    {"deadband_type": "Absolute", "deadband_value": "NaN"},
    {"deadband_type": "Absolute", "deadband_value": "Infinity"},
    {"deadband_type": "Percent"},
    {"deadband_type": "Percent", "deadband_value": 100.5},
    {"deadband_type": "None", "deadband_value": 1},
    {"deadband_value": 1},
    {"data_change_trigger": "Value"},
    {"timestamps_to_return": "Neither"},
]


@pytest.mark.parametrize("columns", BAD_ITEM_SETTINGS, ids=str)
def test_settings_of_items_that_do_not_exist_are_refused(tenant: Tenant, columns: dict[str, Any]) -> None:
    with pytest.raises(CheckViolation, match="scada_connections_"):
        tenant.add_connection(**columns)
    with pytest.raises(CheckViolation, match="tag_mappings_"):
        tenant.add_tag("a", **columns)


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"read_mode": "poll", "sampling_interval_ms": -1, "deadband_type": "None"},
        {"read_mode": "subscribe", "sampling_interval_ms": 0, "deadband_type": "None", "deadband_value": 0},
        {"publishing_interval_ms": 0.1e4, "queue_size": 1_000_000, "discard_oldest": False},
        {"deadband_type": "Absolute", "deadband_value": 0.5, "data_change_trigger": "StatusValueTimestamp"},
        {"deadband_type": "Percent", "deadband_value": 100, "timestamps_to_return": "Both"},
    ],
    ids=str,
)
def test_settings_of_items_that_exist_are_taken(tenant: Tenant, columns: dict[str, Any]) -> None:
    tenant.add_connection(**columns)
    tenant.add_tag("a", **columns)


def test_every_security_that_the_engine_may_be_asked_for_is_taken(tenant: Tenant) -> None:
    for mode in SECURITY_MODES:
        for policy in SECURITY_POLICIES:
            tenant.add_connection(security_mode=mode, security_policy=policy)


def test_every_data_type_of_the_catalog_is_taken(tenant: Tenant) -> None:
    for data_type in DATA_TYPES:
        tenant.add_tag(data_type, data_type=data_type)


def test_every_change_of_tags_moves_the_version_of_their_connections_and_of_no_other(tenant: Tenant) -> None:
    other = tenant.add_connection(name="PLC")
    tenant.add_tag("x", connection_id=other)

    def versions() -> dict[UUID, int]:
        return {row[0]: row[1] for row in tenant.all("select connection_id, version from tag_versions")}

    before = versions()
    assert before == {other: 1}
    for changes_only_the_first in (
        lambda: tenant.add_tag("a"),
        lambda: tenant.connection.execute("update tag_mappings set unit = 'PSI' where opc_node_id = 'a'"),
        lambda: tenant.connection.execute("delete from tag_mappings where opc_node_id = 'a'"),
    ):
        changes_only_the_first()
        assert versions()[tenant.opcua] == before.get(tenant.opcua, 0) + 1
        assert versions()[other] == before[other]
        before = versions()
    tenant.connection.execute("update tag_mappings set connection_id = %s", [tenant.opcua])
    assert versions() == {identity: version + 1 for identity, version in before.items()}
    before = versions()
    tenant.connection.execute("update tag_mappings set unit = 'PSI' where false")
    tenant.connection.execute("insert into tag_states (tag_id, monitored) values (1, true)")
    tenant.connection.execute("update scada_connections set last_error = 'refused'")
    assert versions() == before
    tenant.connection.execute("truncate tag_mappings")
    assert versions() == {identity: version + 1 for identity, version in before.items()}


def test_who_created_a_row_must_be_said(tenant: Tenant) -> None:
    with pytest.raises(NotNullViolation, match="created_by"):
        tenant.connection.execute(
            "insert into wells (tenant_id, name, updated_by) values (%s, 'x', %s)", [SOMEONE] * 2
        )


def test_a_sealed_password_of_any_length_fits(tenant: Tenant) -> None:
    identity = tenant.add_connection(name="PLC", password="x" * 1000)
    assert tenant.one("select length(password) from scada_connections where id = %s", identity) == (1000,)


@pytest.mark.parametrize("slug", ["", "Acme", "1st", "a b", "a.b", "a" * 64, "-a"])
def test_a_slug_that_does_not_fit_is_refused(master: psycopg.Connection, slug: str) -> None:
    with pytest.raises(CheckViolation, match="tenants_slug_check"):
        master.execute("insert into tenants (slug, name, database_name) values (%s, 'x', 'x')", [slug])


@pytest.mark.parametrize(("database", "dsn"), [(None, None), ("x", b"y")])
def test_a_tenant_has_exactly_one_address(
    master: psycopg.Connection, database: str | None, dsn: bytes | None
) -> None:
    with pytest.raises(CheckViolation, match="tenants_one_address_check"):
        master.execute(
            "insert into tenants (slug, name, database_name, dsn_sealed) values ('b', 'B', %s, %s)",
            [database, dsn],
        )


def test_two_tenants_cannot_share_a_database(master: psycopg.Connection) -> None:
    with pytest.raises(UniqueViolation, match="tenants_database_name_unique"):
        master.execute(
            "insert into tenants (slug, name, database_name) select 'other', 'Other', database_name from tenants"
        )


def test_an_unknown_status_is_refused(master: psycopg.Connection) -> None:
    with pytest.raises(CheckViolation, match="tenants_status_check"):
        master.execute("update tenants set status = 'paused'")
