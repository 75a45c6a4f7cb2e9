"""Where each number of the shared-memory page is: its bytes are known here only. page.py says how it is used.

In 8-byte words of the machine's byte order:

    header      word 0 magic "SCADAMET", 1 version, 2 ingest shards, 3 fronts, 4 tenants a block, 5 bytes of the page
    supervisor  from byte 4096; for each process 8 words: 0 deaths, 1 pid that died last, 2 its exit status (minus the
                signal for a killed one, as a signed word); padded to 4096 bytes
    blocks      one a process: ingest shards 0 .. n-1, the aggregator, the fronts, REST; each 4096 + 1024 * 2048 bytes
      process   word 0 state, 1 pid, 2 heartbeat in us of CLOCK_MONOTONIC, 3 start in us since 1970, 4 tenants in use
      tenants   from byte 4096 of the block, 2048 bytes each: word 0 sequence, 1 active, 2 bytes of the slug,
                3-10 slug (UTF-8), 11-13 settled (see below), 16-47 counters, 48-55 drops by reason,
                56-71 gauges (float64), 72-87 batches by rows, 88 sum of rows (float64),
                89-104 writes by seconds, 105 sum of seconds (float64), 106-121 missing tags by reason,
                128-143 journal syncs by seconds, 144 their sum (float64)

Settled: the low half of the UUID of the tenant's stream, and what is to be added (modulo 2^64) to the stream's totals
in the database to have the counters COMMITTED and QUARANTINED. They do not change with a commit, so that a successor
knows what of the totals was counted, whenever its predecessor died.
"""

from __future__ import annotations

import sys
from enum import IntEnum

BYTE_ORDER = sys.byteorder
MAGIC = int.from_bytes(b"SCADAMET", BYTE_ORDER)
VERSION = 3
WORD = 8
PAGE_WORDS = 4096 // WORD
# Slots for all tenants that a shard has had since the supervisor started; the aim is some hundreds in all.
TENANTS_PER_BLOCK = 1_024
TENANT_WORDS = 2048 // WORD
BLOCK_WORDS = PAGE_WORDS + TENANTS_PER_BLOCK * TENANT_WORDS
SUPERVISOR_WORDS_PER_PROCESS = 8
SLUG_MOST_BYTES = 64


class Header(IntEnum):
    """Words of the page's header."""

    MAGIC = 0
    VERSION = 1
    SHARDS = 2
    FRONTS = 3
    TENANTS_PER_BLOCK = 4
    PAGE_BYTES = 5


class SupervisorWord(IntEnum):
    """Words of the supervisor's entry for one process."""

    DEATHS = 0
    DEAD_PID = 1
    EXIT_STATUS = 2


class ProcessWord(IntEnum):
    """Words at the start of a block."""

    STATE = 0
    PID = 1
    HEARTBEAT_US = 2
    STARTED_AT_US = 3
    TENANTS = 4


class TenantWord(IntEnum):
    """Words of a tenant's slots; arrays by their first word."""

    SEQUENCE = 0
    ACTIVE = 1
    SLUG_BYTES = 2
    SLUG = 3
    SETTLED = 11
    COUNTERS = 16
    DROPPED = 48
    GAUGES = 56
    BATCH_ROWS = 72
    BATCH_ROWS_SUM = 88
    WRITE_SECONDS = 89
    WRITE_SECONDS_SUM = 105
    MISSING = 106
    SYNC_SECONDS = 128
    SYNC_SECONDS_SUM = 144


def supervisor_word(place: int) -> int:
    """Return the first word of the supervisor's entry for the process at `place`."""
    return PAGE_WORDS + place * SUPERVISOR_WORDS_PER_PROCESS


def block_word(place: int, processes: int) -> int:
    """Return the first word of the block at `place`, on a page for so many processes."""
    supervisor_pages = -(-processes * SUPERVISOR_WORDS_PER_PROCESS // PAGE_WORDS)
    return (1 + supervisor_pages) * PAGE_WORDS + place * BLOCK_WORDS


def tenant_word(block: int, place: int) -> int:
    """Return the first word of the tenant at `place` in the block that starts at word `block`."""
    return block + PAGE_WORDS + place * TENANT_WORDS


def write_slug(u64: memoryview, tenant: int, encoded: bytes) -> None:
    """Store a slug of at most 64 bytes in the slots that start at word `tenant`."""
    padded = encoded.ljust(SLUG_MOST_BYTES, b"\0")
    for at in range(0, SLUG_MOST_BYTES, WORD):
        u64[tenant + TenantWord.SLUG + at // WORD] = int.from_bytes(padded[at : at + WORD], BYTE_ORDER)
    u64[tenant + TenantWord.SLUG_BYTES] = len(encoded)


def read_slug(u64: memoryview, tenant: int) -> str:
    """Return the slug in the slots that start at word `tenant`."""
    first = tenant + TenantWord.SLUG
    raw = u64[first : first + SLUG_MOST_BYTES // WORD].tobytes()
    return raw[: u64[tenant + TenantWord.SLUG_BYTES]].decode()
