"""The fixed variables that the open62541, node-opcua and asyncua servers all serve, in folder Types of namespace 1.

The first two have the same values in their sources (open62541/fixed.c, node_opcua/fixed.js); tests/servers compares
them. `type.null` (NULL_NODE) is beside them: it holds no value.
"""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from tests.servers.opcua_server import ServedVariable

BAD_TIMEOUT = 0x800A0000
BAD_SENSOR_FAILURE = 0x808C0000
UNCERTAIN_LAST_USABLE_VALUE = 0x40900000


NULL_NODE = "ns=1;s=type.null"


def fixed(name: str, data_type: str, value: object, status: int = 0) -> ServedVariable:
    """Return a variable of namespace 1 that always holds `value`."""
    return ServedVariable(f"ns=1;s={name}", data_type, value, status)


FIXED_VALUES = (
    fixed("type.Boolean", "Boolean", True),
    fixed("type.SByte", "SByte", -12),
    fixed("type.Byte", "Byte", 250),
    fixed("type.Int16", "Int16", -1_234),
    fixed("type.UInt16", "UInt16", 65_000),
    fixed("type.Int32", "Int32", -123_456),
    fixed("type.UInt32", "UInt32", 4_000_000_000),
    fixed("type.Int64", "Int64", -1_234_567_890_123),
    fixed("type.UInt64", "UInt64", 1_234_567_890_123),
    # The first integer that a double cannot hold.
    fixed("type.Int64.big", "Int64", 2**53 + 1),
    fixed("type.Float", "Float", 1.5),
    fixed("type.Double", "Double", -2.25),
    fixed("type.String", "String", "tank € 7"),
    fixed("type.DateTime", "DateTime", datetime.fromtimestamp(1_700_000_000, UTC)),
    fixed("type.Guid", "Guid", UUID("72962b91-fa75-4ae6-8d28-b404dc7daf63")),
    fixed("type.ByteString", "ByteString", b"\x01\x02\xfe\xff"),
    fixed("type.StatusCode", "StatusCode", BAD_TIMEOUT),
    fixed("type.Double.array", "Double", [1.0, 2.0, 3.0]),
    fixed("type.Double.matrix", "Double", [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
    fixed("type.Int32.array", "Int32", [-1, 0, 1]),
    fixed("type.Boolean.array", "Boolean", [True, False]),
    fixed("type.String.array", "String", ["a", "€", ""]),
    # Both servers in other languages keep a value beside a Bad status.
    fixed("status.Bad", "Double", 42.5, BAD_SENSOR_FAILURE),
    fixed("status.Uncertain", "Double", 42.5, UNCERTAIN_LAST_USABLE_VALUE),
)


def counters(count: int, data_type: str = "Double") -> tuple[ServedVariable, ...]:
    """Return the counters tag.0, tag.1, ... of folder Tags."""
    return tuple(ServedVariable(f"ns=1;s=tag.{number}", data_type) for number in range(count))
