-- Where a tenant's readings are kept until its database has them.

alter table tenants add column durability text not null default 'disk';
alter table tenants add constraint tenants_durability_check check (durability in ('disk', 'memory'));
