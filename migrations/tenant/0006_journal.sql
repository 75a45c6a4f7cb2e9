-- What makes each reading come in exactly once: how far each journal has come, and what could not be stored.

-- Which database this is. A journal that was written for one is never replayed into another.
create table database_identity (
    only_row boolean primary key default true check (only_row),
    id uuid not null default gen_random_uuid()
);
insert into database_identity default values;

-- One row a stream, moved in the transaction of the readings. Frames are committed in lanes: lane i has those behind
-- after[i], up to mark[i]. One lane is the rule; a backlog has one of its own, so that live readings need not wait for it.
create table ingest_marks (
    stream uuid primary key,
    epoch bigint not null,  -- of the owner; a writer with another one has been taken over
    after bigint[] not null,
    mark bigint[] not null,
    -- Since the stream began.
    readings bigint not null default 0,
    quarantined bigint not null default 0,
    updated_at timestamptz not null default now(),
    constraint ingest_marks_epoch check (epoch > 0),
    constraint ingest_marks_lanes check (cardinality(after) > 0 and cardinality(after) = cardinality(mark))
);

-- Readings that `readings` cannot hold or that the database refused. Raw columns: what is wrong may be any of them.
create table reading_quarantine (
    id bigint generated always as identity primary key,
    stream uuid not null,
    sequence bigint not null,
    place integer not null,  -- the row in its frame; -1: not one reading
    tag_id integer,          -- null: not one reading, but bytes of the journal
    ts_us bigint,            -- microseconds since 1970; may be more than a timestamptz can hold
    status integer,
    value double precision,
    text_bytes bytea,        -- as the server sent it
    reason text not null,
    sqlstate text,
    detail text not null,
    quarantined_at timestamptz not null default now(),
    constraint reading_quarantine_once unique (stream, sequence, place),
    constraint reading_quarantine_reason check (reason in ('timestamp', 'text', 'rejected', 'journal'))
);

-- Tags that readings may be missing of, because frames of the journal were lost.
alter table reading_gaps drop constraint reading_gaps_cause;
alter table reading_gaps add constraint reading_gaps_cause
    check (cause in ('outage', 'restart', 'missing_message', 'overflow', 'journal'));
