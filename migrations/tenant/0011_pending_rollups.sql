-- Pending hours and days of 0008, tag by tag through the index: as a join with the pending spans, TimescaleDB read all
-- minutes that a tag has ever had, to find those of one pending hour.

create or replace view pending_1h as
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
    select
        stored.bucket, t.tag_id, stored.count, stored.good_count, stored.value_count,
        stored.sum, stored.min, stored.max, stored.first, stored.last
    from tag_mappings t
    cross join spans_of((select pending_hours())) as span
    cross join lateral (
        select * from rollups_1m r
        where r.tag_id = t.tag_id and r.bucket >= lower(span) and r.bucket < upper(span)
        offset 0  -- keeps it from being joined to all spans at once
    ) stored
    where not stored.bucket <@ (select pending_minutes())
    union all
    select * from pending_1m
) finer
group by date_bin('1 hour', bucket, 'epoch'), tag_id;

create or replace view pending_1d as
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
    select
        stored.bucket, t.tag_id, stored.count, stored.good_count, stored.value_count,
        stored.sum, stored.min, stored.max, stored.first, stored.last
    from tag_mappings t
    cross join spans_of((select pending_days())) as span
    cross join lateral (
        select * from rollups_1h r
        where r.tag_id = t.tag_id and r.bucket >= lower(span) and r.bucket < upper(span)
        offset 0  -- keeps it from being joined to all spans at once
    ) stored
    where not stored.bucket <@ (select pending_hours())
    union all
    select * from pending_1h
) finer
group by date_bin('1 day', bucket, 'epoch'), tag_id;
