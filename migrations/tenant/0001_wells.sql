-- The tenant's wells. deleted_at marks a deleted row (soft delete): its readings stay, and stay its own.

create table wells (
    id uuid primary key default gen_random_uuid(),
    tenant_id uuid not null,
    name varchar(255) not null,
    description text,
    created_by uuid not null,
    updated_by uuid not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    deleted_at timestamptz,
    deleted_by uuid,
    constraint wells_name_check check (name <> '')
);

-- A deleted well does not keep its name from being used again.
create unique index wells_name_unique on wells (tenant_id, name) where deleted_at is null;
