-- The readings, and scada_readings: the same in the shape that existing clients read and write.

create table readings (
    ts timestamptz not null,
    tag_id integer not null,  -- no foreign key: it would be checked for every row
    status integer not null,  -- the 32 bits of the OPC UA StatusCode, as a signed integer
    value double precision,
    text_value text
);

-- Storage modes, by what the server can do: columnstore (no row index: its compressed batches are found by
-- tag and time range), hypertable with one B-tree, or a plain table with the same B-tree. Chunks of 24 hours.
do $$
declare
    -- The loader's own setting. CREATE EXTENSION ends the session where the library is not preloaded.
    preloaded constant boolean := exists (
        select from pg_settings where name = 'timescaledb.max_background_workers'
    );
    timescale_schema text;
    reason text;
begin
    if preloaded and not exists (select from pg_extension where extname = 'timescaledb') then
        begin
            create extension timescaledb;
        exception when insufficient_privilege then
            raise warning 'TimescaleDB is on this server but user % may not create the extension in it: '
                'readings becomes a plain table, which is not for production', current_user;
        end;
    elsif not preloaded and exists (select from pg_available_extensions where name = 'timescaledb') then
        raise warning 'TimescaleDB is installed but not in shared_preload_libraries: '
            'readings becomes a plain table, which is not for production';
    end if;

    select n.nspname into timescale_schema
    from pg_extension e join pg_namespace n on n.oid = e.extnamespace
    where e.extname = 'timescaledb';

    if timescale_schema is null then
        create index readings_tag_ts on readings (tag_id, ts desc);
        return;
    end if;

    begin
        execute format(
            'select %I.create_hypertable(%L, %L, '
            'chunk_time_interval => interval %L, create_default_indexes => false)',
            timescale_schema, 'readings', 'ts', '24 hours'
        );
    exception when others then
        get stacked diagnostics reason = message_text;
        raise exception 'TimescaleDB is here, but readings cannot be made a hypertable: %', reason
            using errcode = sqlstate;
    end;

    if current_setting('timescaledb.license', true) = 'timescale'
        and exists (select from pg_settings where name = 'timescaledb.enable_direct_compress_copy')
    then
        alter table readings set (
            timescaledb.enable_columnstore,
            timescaledb.segmentby = 'tag_id',
            timescaledb.orderby = 'ts'
        );
    else
        create index readings_tag_ts on readings (tag_id, ts desc);
    end if;
end
$$;

-- Readings of deleted tags stay visible. value is null where the reading is text or has no value.
create view scada_readings as
select
    r.ts as "timestamp",
    t.well_id,
    t.opc_node_id::text as tag_node_id,
    r.value,
    -- The severity of a StatusCode is its top two bits (OPC 10000-4, 7.39.1); the reserved 3 counts as Bad.
    case (r.status >> 30) & 3 when 0 then 'Good' when 1 then 'Uncertain' else 'Bad' end as quality
from readings r
join tag_mappings t using (tag_id);

create function scada_readings_insert() returns trigger language plpgsql as $$
declare
    found_tag_id integer;
    new_status integer;
begin
    -- A node may be read over two connections; this shape cannot tell them apart: the first mapping has it.
    select tag_id into found_tag_id
    from tag_mappings
    where well_id = new.well_id and opc_node_id = new.tag_node_id and deleted_at is null
    order by tag_id
    limit 1;
    if found_tag_id is null then
        raise exception 'tag_node_id: well % has no tag "%"', coalesce(new.well_id::text, 'null'),
            coalesce(new.tag_node_id, 'null')
            using errcode = 'foreign_key_violation';
    end if;

    -- The StatusCodes Good, Bad and Uncertain: 0x00000000, 0x80000000 and 0x40000000.
    new_status := case new.quality
        when 'Good' then 0 when 'Bad' then -2147483648 when 'Uncertain' then 1073741824
    end;
    if new_status is null then
        raise exception 'quality: "%" is not Good, Bad or Uncertain', coalesce(new.quality, 'null')
            using errcode = 'check_violation';
    end if;

    insert into readings (ts, tag_id, status, value)
    values (new."timestamp", found_tag_id, new_status, new.value);
    return new;
end
$$;

create trigger scada_readings_insert instead of insert on scada_readings
for each row execute function scada_readings_insert();
