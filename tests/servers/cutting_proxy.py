"""A TCP proxy that breaks connections the way networks do. For any server that speaks TCP.

proxy = await CuttingProxy.start("127.0.0.1", 4840)     # proxy.port is where clients connect
proxy.pause()      half-open: both sides stay connected and nothing gets through
proxy.resume()     what was sent meanwhile arrives late
proxy.cut()        all connections are reset
proxy.refuse()     cut, and new connections are refused until proxy.accept()
proxy.tamper = f   bytes from the server become f(bytes)
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_READ_BYTES = 65_536


class CuttingProxy:
    """Forwards every connection to one address until told otherwise."""

    def __init__(self, host: str, port: int) -> None:
        """Use `start`."""
        self.target = (host, port)
        self.port = 0
        self.connections = 0
        self.tamper: Callable[[bytes], bytes] | None = None
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()

    @classmethod
    async def start(cls, host: str, port: int) -> CuttingProxy:
        """Listen on a free port of 127.0.0.1 and forward to host:port."""
        proxy = cls(host, port)
        await proxy.accept()
        return proxy

    async def accept(self) -> None:
        """Accept connections; after `refuse` on the same port as before."""
        if self._server is None:
            self._server = await asyncio.start_server(self._forward, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    def pause(self) -> None:
        """Let nothing through in either direction; no side is told."""
        self._flowing.clear()

    def resume(self) -> None:
        """Let bytes through again, those that wait first."""
        self._flowing.set()

    def cut(self) -> None:
        """Reset all connections."""
        for writer in list(self._writers):
            writer.transport.abort()

    def refuse(self) -> None:
        """Reset all connections and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()

    async def stop(self) -> None:
        """Close everything."""
        self.refuse()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        there = None
        try:
            there_reader, there = await asyncio.open_connection(*self.target)
            self._writers.add(there)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._copy(reader, there, from_server=False))
                group.create_task(self._copy(there_reader, writer, from_server=True))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            for end in (writer, there):
                if end is not None:
                    end.transport.abort()
                    self._writers.discard(end)

    async def _copy(
        self, source: asyncio.StreamReader, drain: asyncio.StreamWriter, *, from_server: bool
    ) -> None:
        while data := await source.read(_READ_BYTES):
            await self._flowing.wait()
            drain.write(self.tamper(data) if from_server and self.tamper else data)
            with suppress(ConnectionError):
                await drain.drain()
        await self._flowing.wait()
        drain.close()
