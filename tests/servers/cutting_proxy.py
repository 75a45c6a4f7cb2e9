"""A TCP proxy that breaks connections the way networks do. For any server that speaks TCP.

`CuttingProxy` lives in a test's event loop; `proxy_in_thread` gives one to tests that have none.

proxy = await CuttingProxy.start("127.0.0.1", 4840)     # proxy.port is where clients connect
proxy.pause()      half-open: both sides stay connected and nothing gets through
proxy.resume()     what was sent meanwhile arrives late
proxy.cut()        all connections are reset
proxy.refuse()     cut, and new connections are refused until proxy.accept()
proxy.tamper = f   bytes from the server become f(bytes)
proxy.cut_at(b"x") resets the next connection on which a client sends this: right behind it, or when it is answered
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

_READ_BYTES = 65_536
_CALL_S = 10.0
# What a server on this machine needs to do what it was told.
_ANSWER_S = 0.2


class CuttingProxy:
    """Forwards every connection to one address until told otherwise."""

    def __init__(self, host: str, port: int) -> None:
        """Use `start`."""
        self.target = (host, port)
        self.port = 0
        self.connections = 0
        self.tamper: Callable[[bytes], bytes] | None = None
        self._cut_at: tuple[bytes, bool] | None = None
        self._unanswered: set[asyncio.StreamWriter] = set()
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

    def cut_at(self, words: bytes, *, answered: bool = False) -> None:
        """Reset one connection, once: that on which a client sends `words` next.

        What follows them does not get through; if it shall be `answered`, it does, and the answer does not.
        """
        self._cut_at = (words, answered)

    @property
    def has_cut(self) -> bool:
        """Whether what `cut_at` waits for has come."""
        return self._cut_at is None and not self._unanswered

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
                group.create_task(self._copy(reader, there, from_server=False, client=writer))
                group.create_task(self._copy(there_reader, writer, from_server=True, client=writer))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            self._unanswered.discard(writer)
            for end in (writer, there):
                if end is not None:
                    end.transport.abort()
                    self._writers.discard(end)

    async def _copy(
        self,
        source: asyncio.StreamReader,
        drain: asyncio.StreamWriter,
        *,
        from_server: bool,
        client: asyncio.StreamWriter,
    ) -> None:
        while data := await source.read(_READ_BYTES):
            await self._flowing.wait()
            if from_server and drain in self._unanswered:
                continue
            if not from_server and self._cut_at is not None and self._cut_at[0] in data:
                await self._cut_behind(data, drain, client)
            drain.write(self.tamper(data) if from_server and self.tamper else data)
            with suppress(ConnectionError):
                await drain.drain()
        await self._flowing.wait()
        drain.close()

    async def _cut_behind(
        self, data: bytes, server: asyncio.StreamWriter, client: asyncio.StreamWriter
    ) -> None:
        assert self._cut_at is not None
        (words, answered), self._cut_at = self._cut_at, None
        self._unanswered.add(client)
        server.write(data if answered else data[: data.index(words) + len(words)])
        await server.drain()
        # The server does what it was told; whoever asked will not hear of it.
        await asyncio.sleep(_ANSWER_S)
        raise ConnectionResetError


class ThreadedProxy:
    """A CuttingProxy whose event loop runs in another thread; its methods return when it is done."""

    def __init__(self, loop: asyncio.AbstractEventLoop, proxy: CuttingProxy) -> None:
        self._loop = loop
        self._proxy = proxy

    @property
    def port(self) -> int:
        """Where clients connect."""
        return self._proxy.port

    @property
    def connections(self) -> int:
        """How many connections there have been."""
        return self._proxy.connections

    def pause(self) -> None:
        """Let nothing through in either direction; no side is told."""
        self._do(self._proxy.pause)

    def resume(self) -> None:
        """Let bytes through again, those that wait first."""
        self._do(self._proxy.resume)

    def cut(self) -> None:
        """Reset all connections."""
        self._do(self._proxy.cut)

    def cut_at(self, words: bytes, *, answered: bool = False) -> None:
        """Reset one connection, once: that on which a client sends `words` next; see CuttingProxy.cut_at."""
        self._do(lambda: self._proxy.cut_at(words, answered=answered))

    @property
    def has_cut(self) -> bool:
        """Whether what `cut_at` waits for has come."""
        return self._proxy.has_cut

    def tamper(self, change: Callable[[bytes], bytes] | None) -> None:
        """Have bytes from the server become what `change` makes of them; None: nothing more."""
        self._do(lambda: setattr(self._proxy, "tamper", change))

    def refuse(self) -> None:
        """Reset all connections and refuse new ones."""
        self._do(self._proxy.refuse)

    def accept(self) -> None:
        """Accept connections again."""
        _run(self._loop, self._proxy.accept())

    def _do(self, action: Callable[[], None]) -> None:
        async def act() -> None:
            action()

        _run(self._loop, act())


@contextmanager
def proxy_in_thread(port: int, host: str = "127.0.0.1") -> Iterator[ThreadedProxy]:
    """Yield a proxy on 127.0.0.1 in front of a port of `host`."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="cutting proxy", daemon=True)
    thread.start()
    try:
        proxy = _run(loop, CuttingProxy.start(host, port))
        try:
            yield ThreadedProxy(loop, proxy)
        finally:
            _run(loop, proxy.stop())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_CALL_S)
        loop.close()


def _run(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run_coroutine_threadsafe(work, loop).result(_CALL_S)
