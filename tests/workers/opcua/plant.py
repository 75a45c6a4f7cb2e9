"""A real OPC UA server for tests: asyncua's, in a thread of its own, on a port that a restart does not change.

One serves all tests: making its address space takes seconds.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any, cast

from asyncua import ua
from asyncua.server.server import Server

SOURCE_TIME = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
_UA_TIME = cast(ua.DateTime, SOURCE_TIME)
TAGS = ("pressure", "flow", "running")
_CALL_S = 20.0


class Plant:
    """The server, and what a test does to it. Nodes are `ns=1;s=<tag>`."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.endpoint = f"opc.tcp://127.0.0.1:{self.port}/plant"
        self._server: Server | None = None
        self._nodes: dict[str, Any] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="plant", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the server and its thread."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(_CALL_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_S)
        self._loop.close()

    async def start(self) -> None:
        """Start the server unless it runs; every tag is 0.0 then."""
        await self._call(self._start())

    async def stop(self) -> None:
        """Stop the server and close its port."""
        await self._call(self._stop())

    async def write(self, name: str, value: float, *, status: int = 0) -> None:
        """Give a tag a value with SOURCE_TIME."""
        await self._call(self._write(name, value, status))

    @property
    def unacknowledged(self) -> int:
        """Messages that the server keeps because nobody has acknowledged them."""
        return sum(len(one._not_acknowledged_results) for one in self._subscriptions())

    @property
    def subscriptions(self) -> int:
        """Subscriptions that exist on the server."""
        return len(self._subscriptions())

    async def forget(self) -> None:
        """Delete all subscriptions, as a server does that has lost patience."""
        await self._call(self._forget())

    def _subscriptions(self) -> list[Any]:
        assert self._server is not None
        return list(self._server.iserver.subscription_service.subscriptions.values())

    async def _call(self, work: Coroutine[Any, Any, None]) -> None:
        await asyncio.wait_for(
            asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop)), _CALL_S
        )

    async def _start(self) -> None:
        if self._server is not None:
            for name in TAGS:
                await self._write(name, 0.0, 0)
            return
        server = self._make()
        await server.init()
        server.set_endpoint(self.endpoint)
        await self._secure(server)
        for name in TAGS:
            node_id = ua.NodeId.from_string(f"ns=1;s={name}")
            self._nodes[name] = await server.nodes.objects.add_variable(node_id, name, 0.0)
        await server.start()
        self._server = server

    def _make(self) -> Server:
        return Server()

    async def _secure(self, server: Server) -> None:
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])

    async def _stop(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop()

    async def _end(self) -> None:
        await self._stop()
        # asyncua leaves the tasks of sessions that ended without a goodbye.
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _write(self, name: str, value: float, status: int) -> None:
        sample = ua.DataValue(
            ua.Variant(value, ua.VariantType.Double), ua.StatusCode(ua.UInt32(status)), _UA_TIME, _UA_TIME
        )
        await self._nodes[name].write_value(sample)

    async def _forget(self) -> None:
        assert self._server is not None
        service = self._server.iserver.subscription_service
        await service.delete_subscriptions(list(service.subscriptions))
