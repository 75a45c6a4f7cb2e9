-- How an OPC UA server is spoken to and how each of its tags is read; what the engine made of it; and a version of
-- every connection's tags, so that a worker need not read 100 000 tags again to see that none has changed.

alter table scada_connections
    -- How tags are read that do not say otherwise; null leaves it to the engine's settings (opcua.*).
    add column read_mode text,
    add column publishing_interval_ms double precision,
    add column sampling_interval_ms double precision,  -- -1: the publishing interval; 0: as fast as the server can
    add column queue_size integer,
    add column discard_oldest boolean,
    add column deadband_type text,
    add column deadband_value double precision,
    add column data_change_trigger text,
    add column timestamps_to_return text,
    -- Other addresses of the same server, or of its redundant partners.
    add column failover_urls text[] not null default '{}',
    -- PEM, the user's X509 identity; the key is sealed like the password.
    add column user_certificate text,
    add column user_private_key text,
    add column allow_deprecated_policies boolean not null default false,
    add column allow_plain_password boolean not null default false,
    -- Written by the engine, like last_error: null while it is not connected.
    add column active_endpoint_url text,
    add column active_security_mode text,
    add column active_security_policy text,
    add column revised_publishing_interval_ms double precision,
    add column revised_lifetime_ms double precision,
    add column monitored_tags integer,
    drop constraint scada_connections_security_mode_check,
    drop constraint scada_connections_security_policy_check,
    -- Auto: the strongest that both sides allow.
    add constraint scada_connections_security_mode_check
        check (security_mode in ('Auto', 'None', 'Sign', 'SignAndEncrypt')),
    -- Basic128Rsa15 and Basic256 are deprecated (both rest on SHA-1): only with allow_deprecated_policies.
    add constraint scada_connections_security_policy_check
        check (security_policy in (
            'Auto', 'None', 'Basic128Rsa15', 'Basic256',
            'Basic256Sha256', 'Aes128_Sha256_RsaOaep', 'Aes256_Sha256_RsaPss'
        )),
    add constraint scada_connections_failover_urls_check
        check (cardinality(failover_urls) <= 8 and array_position(failover_urls, null) is null),
    add constraint scada_connections_user_certificate_check
        check ((user_certificate is null) = (user_private_key is null)),
    add constraint scada_connections_read_mode_check check (read_mode in ('subscribe', 'poll')),
    add constraint scada_connections_publishing_interval_check
        check (publishing_interval_ms between 1 and 3600000),
    add constraint scada_connections_sampling_interval_check
        check (sampling_interval_ms = -1 or sampling_interval_ms between 0 and 3600000),
    add constraint scada_connections_queue_size_check check (queue_size between 1 and 1000000),
    -- Absolute is in raw units, Percent is of the node's EURange.
    add constraint scada_connections_deadband_check
        check (case deadband_type
            when 'None' then deadband_value is null or deadband_value = 0
            when 'Absolute' then deadband_value is not null and deadband_value between 0 and 1e300
            when 'Percent' then deadband_value is not null and deadband_value between 0 and 100
            else deadband_type is null and deadband_value is null
        end),
    add constraint scada_connections_data_change_trigger_check
        check (data_change_trigger in ('Status', 'StatusValue', 'StatusValueTimestamp')),
    add constraint scada_connections_timestamps_to_return_check
        check (timestamps_to_return in ('Source', 'Server', 'Both'));

alter table tag_mappings
    -- What is particular about this tag; null leaves it to its connection.
    add column read_mode text,
    add column publishing_interval_ms double precision,
    add column sampling_interval_ms double precision,
    add column queue_size integer,
    add column discard_oldest boolean,
    add column deadband_type text,
    add column deadband_value double precision,
    add column data_change_trigger text,
    add column timestamps_to_return text,
    drop constraint tag_mappings_data_type_check,
    -- As before, and ENUM: the number in value, its name in text_value. STRUCT: JSON in text_value.
    add constraint tag_mappings_data_type_check
        check (data_type in (
            'DOUBLE', 'FLOAT', 'INT', 'UINT', 'LONG', 'ULONG', 'BOOLEAN', 'DATETIME', 'STRING', 'ENUM', 'STRUCT'
        )),
    add constraint tag_mappings_read_mode_check check (read_mode in ('subscribe', 'poll')),
    add constraint tag_mappings_publishing_interval_check check (publishing_interval_ms between 1 and 3600000),
    add constraint tag_mappings_sampling_interval_check
        check (sampling_interval_ms = -1 or sampling_interval_ms between 0 and 3600000),
    add constraint tag_mappings_queue_size_check check (queue_size between 1 and 1000000),
    add constraint tag_mappings_deadband_check
        check (case deadband_type
            when 'None' then deadband_value is null or deadband_value = 0
            when 'Absolute' then deadband_value is not null and deadband_value between 0 and 1e300
            when 'Percent' then deadband_value is not null and deadband_value between 0 and 100
            else deadband_type is null and deadband_value is null
        end),
    add constraint tag_mappings_data_change_trigger_check
        check (data_change_trigger in ('Status', 'StatusValue', 'StatusValueTimestamp')),
    add constraint tag_mappings_timestamps_to_return_check
        check (timestamps_to_return in ('Source', 'Server', 'Both'));

-- How the engine reads each tag now. Not in tag_mappings: what the engine writes is no change that a person made.
create table tag_states (
    tag_id integer primary key,  -- no foreign key: it would be checked for every row of 100 000
    monitored boolean not null,  -- by a subscription, or by polling
    reason text,  -- why not
    revised_sampling_interval_ms double precision,
    revised_queue_size bigint,  -- 32 bits without a sign
    updated_at timestamptz not null default now()
);

-- Goes up with every statement that changes tags of the connection, whoever sends it; never down.
create table tag_versions (
    connection_id uuid primary key,
    version bigint not null
);

insert into tag_versions (connection_id, version) select distinct connection_id, 1 from tag_mappings;

create function tag_mappings_changed() returns trigger language plpgsql as $$
begin
    -- In one order, so that two writers do not wait for each other.
    if tg_op = 'TRUNCATE' then
        update tag_versions set version = version + 1;
    elsif tg_op = 'UPDATE' then
        insert into tag_versions as v (connection_id, version)
        select connection_id, 1 from (
            select connection_id from changed union select connection_id from before_change
        ) both_sides
        order by connection_id
        on conflict (connection_id) do update set version = v.version + 1;
    else
        insert into tag_versions as v (connection_id, version)
        select distinct connection_id, 1 from changed order by connection_id
        on conflict (connection_id) do update set version = v.version + 1;
    end if;
    return null;
end
$$;

create trigger tag_mappings_inserted after insert on tag_mappings
referencing new table as changed for each statement execute function tag_mappings_changed();

create trigger tag_mappings_updated after update on tag_mappings
referencing new table as changed old table as before_change
for each statement execute function tag_mappings_changed();

create trigger tag_mappings_deleted after delete on tag_mappings
referencing old table as changed for each statement execute function tag_mappings_changed();

create trigger tag_mappings_truncated after truncate on tag_mappings
for each statement execute function tag_mappings_changed();
