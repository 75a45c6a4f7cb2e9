"""A tenant's database as the earlier system leaves it: its own tables, in its own shape, with readings."""

from __future__ import annotations

from uuid import UUID

import psycopg

TENANT_OF_THEIRS = UUID(int=0x7E4A47)
WELLS = (UUID(int=1), UUID(int=2))
CONNECTIONS = (UUID(int=11), UUID(int=12))
UNKNOWN_WELL = UUID(int=3)

_CATALOG = """
create table wells (
    id uuid primary key default gen_random_uuid(), tenant_id uuid not null, name varchar(255) not null,
    api_number varchar(20), created_at timestamptz not null default now(), deleted_at timestamptz
);
create table production_entries (well_id uuid not null references wells (id));
create table scada_connections (
    id uuid primary key default gen_random_uuid(),
    tenant_id uuid not null,
    well_id uuid not null references wells (id),
    name varchar(255) not null,
    description text,
    endpoint_url varchar(500) not null,
    security_mode varchar(50) not null,
    security_policy varchar(50) not null,
    username varchar(255),
    password varchar(255),
    poll_interval_seconds integer not null default 60,
    is_enabled boolean not null default true,
    last_connected_at timestamptz,
    last_error text,
    created_by uuid not null,
    updated_by uuid not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    deleted_at timestamptz,
    deleted_by uuid
);
create index idx_tenant_enabled on scada_connections (tenant_id, is_enabled, deleted_at);
create table tag_mappings (
    id uuid primary key default gen_random_uuid(),
    tenant_id uuid not null,
    connection_id uuid not null references scada_connections (id) on delete cascade,
    well_id uuid not null references wells (id),
    tag_name varchar(255) not null,
    opc_node_id varchar(500) not null,
    data_type varchar(50) not null,
    unit varchar(50),
    scaling_factor numeric(10, 4) default 1.0,
    "offset" numeric(10, 4) default 0.0,
    created_by uuid not null,
    updated_by uuid not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    deleted_at timestamptz,
    deleted_by uuid,
    unique (connection_id, opc_node_id, deleted_at)
);
create index idx_connection on tag_mappings (connection_id, deleted_at);
"""
_FILL = """
insert into wells (id, tenant_id, name)
values (%(well1)s, %(tenant)s, 'Permian'), (%(well2)s, %(tenant)s, 'Delaware');
insert into scada_connections (
    created_by, updated_by, id, tenant_id, well_id, name, endpoint_url, security_mode, security_policy, username,
    password
)
values
    (%(tenant)s, %(tenant)s, %(rtu)s, %(tenant)s, %(well1)s, 'RTU', 'opc.tcp://rtu.invalid:4840', 'None', 'None',
        null, null),
    (%(tenant)s, %(tenant)s, %(plc)s, %(tenant)s, %(well2)s, 'PLC', 'opc.tcp://plc.invalid:4840', 'Sign',
        'Basic256Sha256', 'u', 'x');
insert into tag_mappings (tenant_id, connection_id, well_id, tag_name, opc_node_id, data_type, created_by, updated_by)
select %(tenant)s, connection_id, well_id, 'TAG ' || tag, 'ns=2;s=tag.' || tag, 'double', %(tenant)s, %(tenant)s
from (values (%(rtu)s::uuid, %(well1)s::uuid), (%(plc)s, %(well2)s)) c(connection_id, well_id),
    generate_series(0, 4) tag;
"""
_READINGS = """
create table scada_readings (
    timestamp timestamptz not null,
    well_id uuid not null,
    tag_node_id text not null,
    value double precision not null,
    quality text not null
)
"""
_HYPERTABLE = """
select create_hypertable('scada_readings', 'timestamp', chunk_time_interval => interval '24 hours');
create index idx_scada_readings_well_time on scada_readings (well_id, timestamp desc);
create index idx_scada_readings_tag_time on scada_readings (tag_node_id, timestamp desc)
"""
_COMPRESSED = """
alter table scada_readings set (
    timescaledb.compress, timescaledb.compress_segmentby = 'well_id,tag_node_id'
);
select add_compression_policy('scada_readings', interval '7 days')
"""


def build(dsn: str, *, readings: int, days: int = 3, catalog: bool = True) -> None:
    """Make its tables in an empty database: two wells of five tags, and so many readings of them in so many days.

    A hypertable where the server can, with all chunks but the newest compressed where it can that, too. Readings of
    the tags 5 and 6 are of no tag, some others are Uncertain or Bad.
    """
    with psycopg.connect(dsn, autocommit=True) as connection:
        if catalog:
            connection.execute(_CATALOG)
            psycopg.ClientCursor(connection).execute(
                _FILL.encode(),
                {
                    "tenant": TENANT_OF_THEIRS,
                    "well1": WELLS[0],
                    "well2": WELLS[1],
                    "rtu": CONNECTIONS[0],
                    "plc": CONNECTIONS[1],
                },
            )
        connection.execute(_READINGS)
        found = connection.execute(
            "select current_setting('timescaledb.license', true) from pg_settings"
            " where name = 'timescaledb.max_background_workers'"
        ).fetchone()
        if found is not None:
            connection.execute("create extension if not exists timescaledb")
            connection.execute(_HYPERTABLE)
        connection.execute(
            """
            insert into scada_readings
            select '2026-03-01 00:00Z'::timestamptz + i * interval '1 day' * %s / %s,
                (array[%s, %s])[1 + i %% 2]::uuid, 'ns=2;s=tag.' || (i / 2) %% 7, i,
                case i %% 10 when 8 then 'Uncertain' when 9 then 'Bad' else 'Good' end
            from generate_series(0, %s) i
            """,
            [days, readings, *WELLS, readings - 1],
        )
        license_ = connection.execute("select current_setting('timescaledb.license', true)").fetchone()
        if found is not None and license_ == ("timescale",):
            connection.execute(_COMPRESSED)
            connection.execute(
                "select compress_chunk(chunk)"
                " from show_chunks('scada_readings', older_than => '2026-03-03'::timestamptz) chunk"
            )
