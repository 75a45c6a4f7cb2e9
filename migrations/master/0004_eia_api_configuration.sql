-- Access to the price service of the U.S. Energy Information Administration (EIA), for tenants that use it.
-- The key is sealed with the secrets key, like every secret in a database.

alter table tenants
    add column eia_api_enabled boolean not null default false,
    add column eia_api_key_sealed bytea,
    add constraint tenants_eia_api_key_check check (not eia_api_enabled or eia_api_key_sealed is not null);
