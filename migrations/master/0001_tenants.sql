-- The tenants. Each one has a database of its own: either beside this one on the same server (database_name),
-- or anywhere (dsn_sealed, sealed with the secrets key because it holds a password). Exactly one of the two.

create table tenants (
    id uuid primary key default gen_random_uuid(),
    -- The name in metrics, logs and commands. It never changes: metrics and journals are kept under it.
    slug text not null,
    name text not null,
    database_name text,
    dsn_sealed bytea,
    status text not null default 'active',
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint tenants_slug_unique unique (slug),
    -- Two tenants in one database would read each other's values.
    constraint tenants_database_name_unique unique (database_name),
    constraint tenants_slug_check check (slug ~ '^[a-z][a-z0-9_-]{0,62}$'),
    constraint tenants_name_check check (name <> ''),
    constraint tenants_status_check check (status in ('active', 'disabled')),
    constraint tenants_one_address_check check (num_nonnulls(database_name, dsn_sealed) = 1)
);
