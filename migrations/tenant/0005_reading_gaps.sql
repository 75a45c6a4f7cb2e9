-- Intervals of a tag in which readings are missing and could not be recovered. Both ends are readings that are there.

create table reading_gaps (
    tag_id integer not null,  -- no foreign key, as in readings
    "from" timestamptz not null,
    "to" timestamptz not null,
    cause text not null,
    recorded_at timestamptz not null default now(),
    -- Also the index that queries use. A batch that is sent twice brings its gaps twice: they are the same ones.
    primary key (tag_id, "from", "to", cause),
    constraint reading_gaps_order check ("from" < "to"),
    constraint reading_gaps_cause check (cause in ('outage', 'restart', 'missing_message', 'overflow'))
);

create index reading_gaps_time on reading_gaps ("to", "from");
