-- OPC UA servers and the nodes that are read from them. deleted_at marks a deleted row (soft delete).

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
    -- Sealed, never plain. A sealed password is longer than the password (nonce, tag, base64): varchar(255)
    -- would refuse passwords of about 150 characters and more.
    password text,
    poll_interval_seconds integer not null default 60,
    is_enabled boolean not null default true,
    -- Written by the engine. They do not move updated_at: that says when a person changed the connection.
    last_connected_at timestamptz,
    last_error text,
    created_by uuid not null,
    updated_by uuid not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    deleted_at timestamptz,
    deleted_by uuid,
    constraint scada_connections_security_mode_check
        check (security_mode in ('None', 'Sign', 'SignAndEncrypt')),
    -- The policies of OPC 10000-7 that servers in the field still speak; the first two after None are broken
    -- and only here for old devices.
    constraint scada_connections_security_policy_check
        check (security_policy in (
            'None', 'Basic128Rsa15', 'Basic256',
            'Basic256Sha256', 'Aes128_Sha256_RsaOaep', 'Aes256_Sha256_RsaPss'
        )),
    constraint scada_connections_poll_interval_check check (poll_interval_seconds > 0)
);

create index scada_connections_enabled on scada_connections (tenant_id, is_enabled) where deleted_at is null;

create table tag_mappings (
    id uuid primary key default gen_random_uuid(),
    -- The short key that readings carry: 4 bytes in each row instead of 16 and a node id. Never used again.
    tag_id integer not null generated always as identity,
    tenant_id uuid not null,
    connection_id uuid not null references scada_connections (id) on delete cascade,
    well_id uuid not null references wells (id),
    tag_name varchar(255) not null,
    opc_node_id varchar(500) not null,  -- for example ns=2;s=Well1.Pressure
    data_type varchar(50) not null,
    unit varchar(50),
    -- Not numeric(10, 4): that would turn a factor of 0.00005 into 0.0001 without a word, and double every
    -- value. Null means the default, for writers that say so.
    scaling_factor numeric default 1.0,
    "offset" numeric default 0.0,
    created_by uuid not null,
    updated_by uuid not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    deleted_at timestamptz,
    deleted_by uuid,
    constraint tag_mappings_tag_id_unique unique (tag_id),
    -- DOUBLE, FLOAT: floating point.  INT, UINT: up to 32 bits.  LONG, ULONG: 64 bits, with the exact text
    -- beside the number beyond 2^53.  BOOLEAN: 0 or 1.  DATETIME: seconds since 1970.
    -- STRING: only text_value is filled.
    constraint tag_mappings_data_type_check
        check (data_type in (
            'DOUBLE', 'FLOAT', 'INT', 'UINT', 'LONG', 'ULONG', 'BOOLEAN', 'DATETIME', 'STRING'
        )),
    -- Also keeps out NaN (which sorts above every number) and the infinities.
    constraint tag_mappings_scaling_factor_check check (scaling_factor between -1e15 and 1e15),
    constraint tag_mappings_offset_check check ("offset" between -1e15 and 1e15)
);

-- One living tag for each node of a connection; any number of deleted ones.
create unique index tag_mappings_node_unique on tag_mappings (connection_id, opc_node_id)
where deleted_at is null;

-- Not partial: scada_readings finds the history of deleted tags through it.
create index tag_mappings_well on tag_mappings (well_id, opc_node_id);
