"""A session with a server, for tests of what is asked beside the stream of values."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from tests.workers.opcua.tenant import FAST
from workers.opcua.channel import Channel

# Whole address spaces are read here, by servers that share the machine with other tests.
PATIENT = replace(FAST, request_timeout_s=10.0)


async def opened(url: str) -> Channel:
    """Open a session; whoever asked for it closes it."""
    channel = Channel(url, PATIENT)
    try:
        await channel.open()
    except BaseException:
        await channel.close(1.0)
        raise
    return channel


@asynccontextmanager
async def session(url: str) -> AsyncIterator[Channel]:
    """A session that is closed in the end."""
    channel = await opened(url)
    try:
        yield channel
    finally:
        await channel.close(1.0)
