-- Rollups of one minute, hour and day (UTC) of each tag, and how long what is kept.
--
-- Whoever stores readings writes into rollup_changes, in the same transaction, which minutes they are of; so does
-- whoever changes or deletes some: note_changed_readings. Until those minutes are computed anew they are pending, and the
-- views readings_1m, readings_1h and readings_1d compute them from the readings: the views are right at any moment.
--
-- In each bucket:
--     count          all readings of the tag
--     good_count     those with a Good status (the top two bits of the StatusCode are 0)
--     value_count    those with a number that is not NaN, and a status that is not Bad (top bit 0); only these are in
--     sum, min, max  what follows. A number beyond 1e290 counts in the sum as infinite: a sum never overflows.
--     first, last    by time; of the same time, by status, then value
-- A bucket without readings has no row; one without numbers has null in the last five.

create table rollup_changes (
    id bigint generated always as identity primary key,
    minutes int8multirange not null,  -- since 1970 UTC; negative before
    noted_at timestamptz not null default now(),
    -- Whole days that timestamptz has: 4714-11-24 BC to 294276-12-30.
    constraint rollup_changes_minutes check (minutes <@ '{[-3514446720,153738632160)}')
);

-- One row. Readings before readings_from have been dropped by retention: rollups of that time stay as they are, whatever
-- comes in later. Whoever refreshes or drops locks this table first.
create table rollup_state (
    only_row boolean primary key default true check (only_row),
    readings_from timestamptz not null default '-infinity',
    constraint rollup_state_whole_day
        check (readings_from = '-infinity' or date_bin('1 day', readings_from, 'epoch') = readings_from)
);
insert into rollup_state default values;

-- One row. null: for ever. Whole days, so that what is dropped never cuts a bucket in two.
create table storage_policies (
    only_row boolean primary key default true check (only_row),
    keep_readings interval,
    keep_1m interval,
    keep_1h interval,
    keep_1d interval,
    compress_after interval default '6 hours',  -- after the end of a chunk
    constraint storage_policies_whole_days check (
        keep_readings = make_interval(days => extract(day from keep_readings)::integer)
        and keep_1m = make_interval(days => extract(day from keep_1m)::integer)
        and keep_1h = make_interval(days => extract(day from keep_1h)::integer)
        and keep_1d = make_interval(days => extract(day from keep_1d)::integer)
    ),
    constraint storage_policies_range check (
        least(keep_readings, keep_1m, keep_1h, keep_1d) >= interval '1 day'
        and greatest(keep_readings, keep_1m, keep_1h, keep_1d) <= interval '100000 days'
        and compress_after between interval '0' and interval '100000 days'
    ),
    -- A rollup is kept as long as what it is made of, or longer: what is gone is never computed anew.
    constraint storage_policies_order check (
        coalesce(keep_readings, '1000000 days') <= coalesce(keep_1m, '1000000 days')
        and coalesce(keep_1m, '1000000 days') <= coalesce(keep_1h, '1000000 days')
        and coalesce(keep_1h, '1000000 days') <= coalesce(keep_1d, '1000000 days')
    )
);
insert into storage_policies default values;

create table rollups_1m (
    bucket timestamptz not null,
    tag_id integer not null,  -- no foreign key, as in readings
    count bigint not null,
    good_count bigint not null,
    value_count bigint not null,
    sum double precision,
    min double precision,
    max double precision,
    first double precision,
    last double precision,
    primary key (tag_id, bucket)
);
create table rollups_1h (like rollups_1m including all);
create table rollups_1d (like rollups_1m including all);

-- In the readings' own mode. Chunks of a few thousand rows a tag; brin where there are none: rows come by time.
do $$
declare
    timescale_schema text;
    is_compressed boolean;
    rollup text;
    chunk_days integer;
begin
    select n.nspname into timescale_schema
    from pg_extension e join pg_namespace n on n.oid = e.extnamespace
    where e.extname = 'timescaledb';
    if timescale_schema is not null then
        select compression_enabled into is_compressed
        from timescaledb_information.hypertables
        where format('%I.%I', hypertable_schema, hypertable_name)::regclass = 'readings'::regclass;
    end if;
    for rollup, chunk_days in
        values ('rollups_1m', 7), ('rollups_1h', 182), ('rollups_1d', 3653)
    loop
        if is_compressed is null then
            execute format('create index on %I using brin (bucket) with (autosummarize = on)', rollup);
            continue;
        end if;
        execute format(
            'select %I.create_hypertable(%L, %L, '
            'chunk_time_interval => interval %L, create_default_indexes => false)',
            timescale_schema, rollup, 'bucket', chunk_days || ' days'
        );
        if is_compressed then
            execute format(
                'alter table %I set (timescaledb.enable_columnstore, '
                'timescaledb.segmentby = %L, timescaledb.orderby = %L)',
                rollup, 'tag_id', 'bucket'
            );
        end if;
    end loop;
end
$$;

-- Times of pending buckets. Functions, because a plan should not expect thousands of them; and to compile the query
-- (jit) would take a hundred times as long as to run it.
create function pending_spans(width interval) returns tstzmultirange language sql stable set jit = off
begin atomic
    with span as (
        select
            greatest(to_timestamp(lower(part) * 60), (select readings_from from rollup_state)) as since,
            to_timestamp(upper(part) * 60) as until
        from rollup_changes cross join unnest(minutes) part
    )
    select coalesce(range_agg(tstzrange(
        date_bin(width, since, 'epoch'), date_bin(width, until - interval '1 minute', 'epoch') + width
    )), '{}')
    from span where since < until;
end;

create function pending_minutes() returns tstzmultirange language sql stable
begin atomic
    select pending_spans('1 minute');
end;

create function pending_hours() returns tstzmultirange language sql stable
begin atomic
    select pending_spans('1 hour');
end;

create function pending_days() returns tstzmultirange language sql stable
begin atomic
    select pending_spans('24 hours');
end;

-- Strict, so that it is not inlined: the planner shall expect a few.
create function spans_of(spans tstzmultirange) returns setof tstzrange language sql immutable strict rows 3
begin atomic
    select unnest(spans);
end;

-- Minutes from readings, tag by tag: readings have no index by time alone, and one by tag and time. Tags that were
-- deleted have their rollups; readings of a tag that never was in tag_mappings are in no rollup, as in scada_readings.
create function rollups_of_readings(since timestamptz, until timestamptz)
returns table (
    bucket timestamptz, tag_id integer, count bigint, good_count bigint, value_count bigint,
    sum double precision, min double precision, max double precision,
    first double precision, last double precision
)
language sql stable
begin atomic
    select
        minute.bucket, t.tag_id, minute.count, minute.good_count, minute.value_count,
        minute.sum, minute.min, minute.max,
        minute.in_order[1], minute.in_order[minute.value_count]
    from tag_mappings t cross join lateral (
        select
            date_bin('1 minute', r.ts, 'epoch') as bucket,
            count(*) as count,
            count(*) filter (where r.status between 0 and 1073741823) as good_count,
            count(r.number) as value_count,
            sum(case when abs(r.number) <= 1e290 then r.number else sign(r.number) * 'infinity'::float8 end) as sum,
            min(r.number) as min,
            max(r.number) as max,
            array_agg(r.number order by r.ts, r.status, r.number) filter (where r.number is not null) as in_order
        from (
            select s.ts, s.status, case when s.status >= 0 and s.value <> 'nan' then s.value end as number
            from stored_readings s
            where s.tag_id = t.tag_id and s.ts >= since and s.ts < until
        ) r
        group by date_bin('1 minute', r.ts, 'epoch')
    ) minute;
end;

create view pending_1m as
select minute.*
from spans_of((select pending_minutes())) as span
cross join lateral rollups_of_readings(lower(span), upper(span)) minute;

create view readings_1m as
select * from rollups_1m where not bucket <@ (select pending_minutes())
union all
select * from pending_1m;

-- Hours from minutes, and days from hours: what is stored and not pending itself, and what is.
create view pending_1h as
select
    date_bin('1 hour', bucket, 'epoch') as bucket,
    tag_id,
    sum(count)::bigint as count,
    sum(good_count)::bigint as good_count,
    sum(value_count)::bigint as value_count,
    sum(sum) as sum,
    min(min) as min,
    max(max) as max,
    (array_agg(first order by bucket) filter (where value_count > 0))[1] as first,
    (array_agg(last order by bucket desc) filter (where value_count > 0))[1] as last
from (
    select stored.*
    from spans_of((select pending_hours())) as span
    join rollups_1m stored on stored.bucket >= lower(span) and stored.bucket < upper(span)
    where not stored.bucket <@ (select pending_minutes())
    union all
    select * from pending_1m
) minute
group by date_bin('1 hour', bucket, 'epoch'), tag_id;

create view readings_1h as
select * from rollups_1h where not bucket <@ (select pending_hours())
union all
select * from pending_1h;

create view pending_1d as
select
    date_bin('1 day', bucket, 'epoch') as bucket,
    tag_id,
    sum(count)::bigint as count,
    sum(good_count)::bigint as good_count,
    sum(value_count)::bigint as value_count,
    sum(sum) as sum,
    min(min) as min,
    max(max) as max,
    (array_agg(first order by bucket) filter (where value_count > 0))[1] as first,
    (array_agg(last order by bucket desc) filter (where value_count > 0))[1] as last
from (
    select stored.*
    from spans_of((select pending_days())) as span
    join rollups_1h stored on stored.bucket >= lower(span) and stored.bucket < upper(span)
    where not stored.bucket <@ (select pending_hours())
    union all
    select * from pending_1h
) hour
group by date_bin('1 day', bucket, 'epoch'), tag_id;

create view readings_1d as
select * from rollups_1d where not bucket <@ (select pending_days())
union all
select * from pending_1d;

-- For those who write, change or delete readings in SQL: call it in the same transaction, with the first and the last
-- time of what has changed (in any order of rows; a time in between does no harm). Infinite times are in no rollup.
create function note_changed_readings(since timestamptz, until timestamptz) returns void
language sql
begin atomic
    insert into rollup_changes (minutes)
    select int8multirange(int8range(
        floor(extract(epoch from greatest(since, '4714-11-24 00:00Z BC')) / 60)::bigint,
        floor(extract(epoch from least(until, '294276-12-30 23:59Z')) / 60)::bigint,
        '[]'
    ))
    where least(until, '294276-12-30 23:59Z') >= greatest(since, '4714-11-24 00:00Z BC');
end;

-- As in 0003; and the minute is noted, once for rows of the same minute that follow each other in a transaction. The
-- setting ends with the transaction, and is undone with a savepoint, as the noted row is.
create or replace function scada_readings_insert() returns trigger language plpgsql as $$
declare
    found_tag_id integer;
    new_status integer;
    minute text;
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

    minute := extract(epoch from date_trunc('minute', new."timestamp", 'UTC'))::text;
    if current_setting('scada.noted_minute', true) is distinct from minute then
        perform note_changed_readings(new."timestamp", new."timestamp");
        perform set_config('scada.noted_minute', minute, true);
    end if;
    return new;
end
$$;

-- What is stored already: day by day where readings are chunks, as a scan would take long.
do $$
begin
    if to_regclass('timescaledb_information.chunks') is not null then
        perform note_changed_readings(range_start, range_end - interval '1 microsecond')
        from timescaledb_information.chunks
        where format('%I.%I', hypertable_schema, hypertable_name)::regclass = 'readings'::regclass;
        if found then
            return;
        end if;
    end if;
    perform note_changed_readings(min(ts), max(ts))
    from stored_readings where ts > '-infinity' and ts < 'infinity'
    group by date_bin('1 day', ts, 'epoch');
end
$$;
