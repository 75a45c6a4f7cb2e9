"""How a call names its tenant: by the request metadata `x-tenant: SLUG`. Who that is, workers.identity knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from workers.identity import NotAllowed, NotIdentified
from workers.rpc.status import TENANT, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.catalog import Tenant
    from workers.identity import TenantDirectory

# What pg_stat_activity shows of our connections.
APPLICATION = "scada-engine front"
PLACE = f"the request metadata {TENANT}"
_SLUG_MOST_CHARACTERS = 63


def tenant_of(directory: TenantDirectory, metadata: Iterable[tuple[str, str | bytes]]) -> Tenant:
    """Return the tenant that a call is for.

    Raises Refusal (UNAUTHENTICATED, PERMISSION_DENIED), and DatabaseUnavailable while the tenants are not known.
    """
    named = [str(value) for key, value in metadata if key == TENANT]
    try:
        return directory.tenant_of(named)
    except NotIdentified as exc:
        raise Refusal(grpc.StatusCode.UNAUTHENTICATED, str(exc)) from exc
    except NotAllowed as exc:
        # Who asked for whom is written down: one that tries names is somebody to look at.
        asked = f"tenant {named[0][:_SLUG_MOST_CHARACTERS]}"
        raise Refusal(grpc.StatusCode.PERMISSION_DENIED, str(exc), asked=asked) from exc
