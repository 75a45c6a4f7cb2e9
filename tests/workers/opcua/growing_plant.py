"""A plant that gets nodes while it runs, and can be told to refuse a service."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

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
        self.refuse_after(service, 0, status)

    def refuse_after(self, service: str, requests: int, status: int) -> None:
        """Do as `refuse`, but answer so many requests as usual before."""
        assert self._server is not None
        usual = getattr(self._server.iserver.subscription_service, service)
        left = requests

        async def answer(*some: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise ServiceError(status)
            return await usual(*some, **more)

        setattr(self._server.iserver.subscription_service, service, answer)

    def refuse_nothing(self) -> None:
        """Answer every request as usual again."""
        assert self._server is not None
        # What was set on the object hides what its class does.
        vars(self._server.iserver.subscription_service).pop("create_subscription", None)
        vars(self._server.iserver.subscription_service).pop("create_monitored_items", None)

    async def _add(self, name: str) -> None:
        assert self._server is not None
        await self._server.nodes.objects.add_variable(ua.NodeId.from_string(f"ns=1;s={name}"), name, 1.0)
