-- Readings of the earlier system, where there are any: its table scada_readings was renamed to seed_readings before
-- these migrations began (engine.migrations_seed), and is converted into readings piece by piece while the engine works
-- (scada-engine tenant take-over). Until then scada_readings shows both; each reading is in one of them at any moment.
-- Whoever defines scada_readings anew calls this afterwards.

create function show_seed_readings() returns void language plpgsql as $$
declare
    stored constant text := $view$
        create or replace view scada_readings as
        select
            r.ts as "timestamp",
            t.well_id,
            t.opc_node_id::text as tag_node_id,
            r.value,
            case (r.status >> 30) & 3 when 0 then 'Good' when 1 then 'Uncertain' else 'Bad' end as quality
        from stored_readings r
        join tag_mappings t using (tag_id)
    $view$;
begin
    if to_regclass('seed_readings') is null then
        execute stored;
    else
        execute stored || $view$
            union all
            select "timestamp", well_id, tag_node_id::text, value, quality::text from seed_readings
        $view$;
    end if;
end
$$;

-- Where there are none the view is right as it is.
do $$
begin
    if to_regclass('seed_readings') is not null then
        perform show_seed_readings();
    end if;
end
$$;
