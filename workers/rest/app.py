"""The routes: those of the earlier service, and the pages that describe them (/openapi.json, /docs).

Each route finds the caller's tenant, asks engine.catalog or engine.query, and answers with bytes that are ready to be
sent. Lists are JSON arrays; where a page is not the last one, the header X-Next-Cursor leads to the next.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import Depends, FastAPI, Header, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

from engine import catalog
from engine.errors import ScadaError
from engine.query import Cursor
from engine.version import VERSION
from workers.identity import NotAllowed, NotIdentified, TenantDirectory
from workers.reading_pages import Range, Selection, cursor_of, token_of
from workers.rest import rows
from workers.rest.answers import JSON, NEXT_CURSOR, TENANT, Busy, answer_error
from workers.rest.schemas import (
    ConnectionBody,
    ConnectionsQuery,
    ConnectionView,
    ErrorView,
    ReadingsQuery,
    ReadingView,
    TagsBody,
    TagView,
    connection_of,
    tag_of,
)
from workers.rest.tenancy import Tenancies, Tenancy

_DESCRIPTION = """Registers OPC UA servers and their tags, and answers readings.

The tenant is named by its slug in the header `X-Tenant`; where there is only one tenant, it may be left out. Every
answer carries `X-Request-Id`: the caller's own, or a new one. The gRPC port answers the same readings faster,
and streams them.
"""
_ERRORS: dict[int | str, dict[str, Any]] = {
    status.value: {"model": ErrorView, "description": said}
    for status, said in (
        (HTTPStatus.BAD_REQUEST, "The request does not fit; `field` names what."),
        (HTTPStatus.UNAUTHORIZED, "There are several tenants, and the request names none."),
        (HTTPStatus.FORBIDDEN, "The tenant is not open to this caller."),
        (HTTPStatus.NOT_FOUND, "What the request names does not exist."),
        (HTTPStatus.TOO_MANY_REQUESTS, "Too many requests of this tenant are running."),
        (HTTPStatus.SERVICE_UNAVAILABLE, "Not now: the database is away, or too many requests are running."),
        (HTTPStatus.GATEWAY_TIMEOUT, "The database took too long."),
    )
}
_PAGED: dict[int | str, dict[str, Any]] = {
    HTTPStatus.OK.value: {
        "headers": {
            NEXT_CURSOR: {
                "description": "There is more: ask the same again with this as `cursor`.",
                "schema": {"type": "string"},
            }
        }
    }
}


def build(directory: TenantDirectory, tenancies: Tenancies) -> FastAPI:
    """Return the application."""
    app: FastAPI = FastAPIOffline(
        title="scada-engine",
        version=VERSION,
        description=_DESCRIPTION,
        redoc_url=None,
        redirect_slashes=False,
        # OpenTelemetry would be handed bodies, and so passwords.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        responses=_ERRORS,
    )
    app.state.directory, app.state.tenancies = directory, tenancies
    for kind in (ScadaError, NotIdentified, NotAllowed, Busy, TimeoutError, RequestValidationError,
                 HTTPException, Exception):  # fmt: skip
        app.add_exception_handler(kind, answer_error)
    app.post("/scada/connections", status_code=201, response_model=ConnectionView)(create_connection)
    app.get("/scada/connections", response_model=list[ConnectionView], responses=_PAGED)(list_connections)
    app.post("/scada/connections/{id}/tags", status_code=201, response_model=list[TagView])(create_tags)
    app.get("/scada/readings", response_model=list[ReadingView], responses=_PAGED)(list_readings)
    app.openapi = lambda: _described(app)  # type: ignore[method-assign]
    return app


def _described(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document without FastAPI's own answer 422: what does not fit is 400 here."""
    if app.openapi_schema is None:
        document = FastAPI.openapi(app)
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
    return app.openapi_schema or {}


async def _tenancy(
    request: Request,
    _: Annotated[str | None, Header(alias=TENANT, description="The tenant's slug.")] = None,
) -> AsyncGenerator[Tenancy, None]:
    tenant = request.app.state.directory.tenant_of(request.headers.getlist(TENANT))
    request.scope["state"]["tenant"] = tenant.slug
    tenancy: Tenancy = request.app.state.tenancies.of(tenant)
    async with tenancy.request():
        yield tenancy


Caller = Annotated[Tenancy, Depends(_tenancy)]


async def create_connection(caller: Caller, body: ConnectionBody) -> Response:
    """Register an OPC UA server. The engine connects to it within seconds."""
    async with caller.catalog.use() as database:
        added = await catalog.add_connection(
            database, caller.tenant.id, body.wanted(), secrets_key=caller.settings.secrets_key
        )
    return _json(connection_of(added), HTTPStatus.CREATED)


async def list_connections(caller: Caller, query: Annotated[ConnectionsQuery, Query()]) -> Response:
    """List the OPC UA servers by name, and how they are doing."""
    async with caller.catalog.use() as database:
        # One more than asked for: it tells whether there is a next page.
        found = await catalog.list_connections(database, limit=query.limit + 1, after=query.cursor)
    page = found[: query.limit]
    answer = _json(list(map(connection_of, page)))
    if len(found) > len(page):
        answer.headers[NEXT_CURSOR] = str(page[-1].id)
    return answer


async def create_tags(
    caller: Caller, connection_id: Annotated[UUID, Path(alias="id")], body: TagsBody
) -> Response:
    """Add tags to an OPC UA server, all of them or none. The engine reads them within seconds."""
    async with caller.catalog.use() as database:
        added = await catalog.add_tags(
            database, caller.tenant.id, connection_id, [tag.wanted() for tag in body.tags]
        )
    return _json(list(map(tag_of, added)), HTTPStatus.CREATED)


async def list_readings(caller: Caller, query: Annotated[ReadingsQuery, Query()]) -> Response:
    """List a well's readings in the order of their time."""
    from_us = rows.moment_us("from", query.from_)
    to_us = time.time_ns() // 1_000 if query.to is None else rows.moment_us("to", query.to)
    # What is asked for is the same on the next page, where it is later.
    wanted = Range(Selection(query.well_id, None), from_us, 0 if query.to is None else to_us)
    after = cursor_of(query.cursor, wanted)
    tags = await caller.readings.tags(well_id=query.well_id)
    # One more than asked for: it tells whether there is a next page.
    batch = await caller.readings.range(
        from_us=from_us,
        to_us=to_us,
        well_id=query.well_id,
        limit=query.limit + 1,
        after=after,
    )
    count = rows.fitting(batch, query.limit)
    answer = Response(rows.encoded(batch, count, tags), media_type=JSON)
    if count < len(batch):
        answer.headers[NEXT_CURSOR] = token_of(Cursor.after(batch.part(0, count), after), wanted)
    return answer


def _json(value: object, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(orjson.dumps(value, option=orjson.OPT_UTC_Z), status, media_type=JSON)
