-- One place to read readings from, an index that fills its pages, and the right to append to the columnstore in order.

-- What readings are in this tenant's database, wherever they are: whoever reads them reads this. Normally it is the
-- table; while readings are being moved from one table to another, both.
create view stored_readings as
select ts, tag_id, status, value, text_value from readings;

create or replace view scada_readings as
select
    r.ts as "timestamp",
    t.well_id,
    t.opc_node_id::text as tag_node_id,
    r.value,
    -- The severity of a StatusCode is its top two bits (OPC 10000-4, 7.39.1); the reserved 3 counts as Bad.
    case (r.status >> 30) & 3 when 0 then 'Good' when 1 then 'Uncertain' else 'Bad' end as quality
from stored_readings r
join tag_mappings t using (tag_id);

-- Within a tag, readings come in the order of time: then an ascending index grows at the right end of each tag's part,
-- and its pages fill (measured: a third smaller than (tag_id, ts desc), and a sixth less WAL). Both serve every query.
-- In columnstore mode it is the index of what is not compressed yet; compressed batches have none and pay nothing.
do $$
begin
    if exists (select from pg_indexes where indexname = 'readings_tag_ts' and schemaname = current_schema()) then
        -- Building it anew over readings that are there would hold up writers for as long as it takes.
        if exists (select from readings) then
            return;
        end if;
        drop index readings_tag_ts;
    end if;
    create index readings_tag_ts on readings (tag_id, ts);
end
$$;

-- Compressed batches of a tag must not overlap in time unless their chunk is marked so: queries would give readings in
-- a wrong order. Who appends batches that are not marked knows all that was stored before them; only one stream does,
-- and whoever else makes batches (compresses what others have inserted) takes the right to append from it, by
-- `update append_order set stream = null, turn = turn + 1` as the first statement of the transaction that makes them.
create table append_order (
    only_row boolean primary key default true check (only_row),
    stream uuid,  -- null: nobody's
    turn bigint not null default 0  -- one higher each time that the right changes hands
);
insert into append_order default values;
