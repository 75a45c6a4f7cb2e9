"""Tenants, wells, connections and tags: everything the rest of the engine may ask of the catalog.

    records     what there is, as dataclasses
    connection  a connection as a worker holds it, with its tag_set: tags as columns
    node_ids    the notation of node ids; pure
    rules       what a value must look like; pure, with plain_rules
    queries     lists and look-ups
    loading     what a worker reads: connections with their secrets and tags
    states      what the engine itself writes: how connections and tags are doing
    tenants     add, change and disable tenants (master database)
    commands    add wells and connections, delete connections and tags (a tenant's database)
    new_tags    add tags: those of a call, or a whole plant's
    changes     change a connection
    seed        two wells to begin with

Functions take an open connection: one to the master database for tenants, one to the tenant's own for all else.
Commands commit by themselves, unless the caller already is in a transaction.
"""

from engine.catalog.changes import CHANGEABLE, change_connection
from engine.catalog.commands import (
    ENGINE_ACTOR,
    add_connection,
    add_well,
    delete_connection,
    delete_tag,
)
from engine.catalog.connection import Connection
from engine.catalog.loading import KnownConnections, load_connection, load_connections
from engine.catalog.new_tags import add_tags, import_tags
from engine.catalog.queries import (
    get_connection,
    list_connections,
    list_tags,
    list_tenants,
    list_wells,
)
from engine.catalog.records import (
    ITEM_COLUMNS,
    NO_SETTINGS,
    ActiveConnection,
    ConnectionSummary,
    Durability,
    ItemSettings,
    NewConnection,
    NewTag,
    Tag,
    TagState,
    Tenant,
    Well,
)
from engine.catalog.rules import (
    DATA_CHANGE_TRIGGERS,
    DATA_TYPES,
    DEADBAND_TYPES,
    DEPRECATED_POLICIES,
    MOST_TAGS_PER_IMPORT,
    READ_MODES,
    SECURITY_MODES,
    SECURITY_POLICIES,
    TIMESTAMPS_TO_RETURN,
    InvalidRows,
)
from engine.catalog.seed import seed
from engine.catalog.states import list_tag_states, record_connection, record_tag_states
from engine.catalog.tag_set import TagSet
from engine.catalog.tenants import add_tenant, disable_tenant, set_durability

__all__ = [
    "CHANGEABLE",
    "DATA_CHANGE_TRIGGERS",
    "DATA_TYPES",
    "DEADBAND_TYPES",
    "DEPRECATED_POLICIES",
    "ENGINE_ACTOR",
    "ITEM_COLUMNS",
    "MOST_TAGS_PER_IMPORT",
    "NO_SETTINGS",
    "READ_MODES",
    "SECURITY_MODES",
    "SECURITY_POLICIES",
    "TIMESTAMPS_TO_RETURN",
    "ActiveConnection",
    "Connection",
    "ConnectionSummary",
    "Durability",
    "InvalidRows",
    "ItemSettings",
    "KnownConnections",
    "NewConnection",
    "NewTag",
    "Tag",
    "TagSet",
    "TagState",
    "Tenant",
    "Well",
    "add_connection",
    "add_tags",
    "add_tenant",
    "add_well",
    "change_connection",
    "delete_connection",
    "delete_tag",
    "disable_tenant",
    "get_connection",
    "import_tags",
    "list_connections",
    "list_tag_states",
    "list_tags",
    "list_tenants",
    "list_wells",
    "load_connection",
    "load_connections",
    "record_connection",
    "record_tag_states",
    "seed",
    "set_durability",
]
