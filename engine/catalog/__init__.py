"""Tenants, wells, connections and tags: everything the rest of the engine may ask of the catalog.

    records     what there is, as dataclasses
    tag_set     the tags of a connection as columns, for a worker
    rules       what a value must look like; pure
    queries     lists and look-ups; the state of a connection
    tenants     add and disable tenants (master database)
    commands    add and delete wells, connections and tags (a tenant's database)
    seed        two wells to begin with

Functions take an open connection: one to the master database for tenants, one to the tenant's own for all else.
Commands commit by themselves, unless the caller already is in a transaction.
"""

from engine.catalog.commands import (
    ENGINE_ACTOR,
    add_connection,
    add_tags,
    add_well,
    delete_connection,
    delete_tag,
)
from engine.catalog.queries import (
    get_connection,
    list_connections,
    list_tags,
    list_tenants,
    list_wells,
    load_connections,
    record_connection,
)
from engine.catalog.records import (
    Connection,
    ConnectionSummary,
    ItemSettings,
    NewConnection,
    NewTag,
    Tag,
    Tenant,
    Well,
)
from engine.catalog.rules import DATA_TYPES, SECURITY_MODES, SECURITY_POLICIES, InvalidRows
from engine.catalog.seed import seed
from engine.catalog.tag_set import TagSet
from engine.catalog.tenants import add_tenant, disable_tenant

__all__ = [
    "DATA_TYPES",
    "ENGINE_ACTOR",
    "SECURITY_MODES",
    "SECURITY_POLICIES",
    "Connection",
    "ConnectionSummary",
    "InvalidRows",
    "ItemSettings",
    "NewConnection",
    "NewTag",
    "Tag",
    "TagSet",
    "Tenant",
    "Well",
    "add_connection",
    "add_tags",
    "add_tenant",
    "add_well",
    "delete_connection",
    "delete_tag",
    "disable_tenant",
    "get_connection",
    "list_connections",
    "list_tags",
    "list_tenants",
    "list_wells",
    "load_connections",
    "record_connection",
    "seed",
]
