"""A plant that gets nodes while it runs, and can be told to refuse a service."""

from __future__ import annotations

from collections.abc import Awaitable

from asyncua import ua
from asyncua.common.utils import ServiceError

from tests.workers.opcua.plant import Plant


class GrowingPlant(Plant):
    """A server that gets nodes while it runs, and one that cannot do what it is told not to."""

    def add(self, name: str) -> Awaitable[None]:
        """Add a variable `ns=1;s=<name>`."""
        return self._call(self._add(name))

    def refuse(self, service: str, status: int) -> None:
        """Answer each request of a subscription service with this status from now on."""
        assert self._server is not None

        async def refused(*_: object, **__: object) -> None:
            raise ServiceError(status)

        setattr(self._server.iserver.subscription_service, service, refused)

    async def _add(self, name: str) -> None:
        assert self._server is not None
        await self._server.nodes.objects.add_variable(ua.NodeId.from_string(f"ns=1;s={name}"), name, 1.0)
