"""The error tree as HTTP answers. Every error is {"error": {"field": ..., "message": ...}}; `field` may be null.

    InvalidInput, a body or query that does not fit    400, naming the field as the caller wrote it
      InvalidRows                                      the same, with all of them in `problems`
      NotFound                                         404
    NotIdentified                                      401
    NotAllowed                                         403
    Busy                                               429
    ConfigurationError                                 503: the engine lacks a setting that this request needs
    DatabaseUnavailable, -NotMigrated                  503; why is in our log, not in the answer
    TimeoutError                                       504
    anything else                                      500, logged with its traceback; the caller gets the request id

The engine names fields as Python does, callers as JSON does: well_id is wellId. What a caller sent as a password is
never repeated, and what a body held is never logged.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
import structlog
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic.alias_generators import to_camel
from starlette.exceptions import HTTPException

from engine.catalog import InvalidRows
from engine.errors import (
    ConfigurationError,
    DatabaseNotMigrated,
    DatabaseTooNew,
    DatabaseUnavailable,
    InvalidInput,
    NotFound,
)
from workers.identity import NotAllowed, NotIdentified

log = structlog.get_logger(__name__)

TENANT = "X-Tenant"
REQUEST_ID = "X-Request-Id"
NEXT_CURSOR = "X-Next-Cursor"
JSON = "application/json"
_PROBLEMS_MOST = 20
_SHOWN_MOST_CHARACTERS = 80
# What the engine calls a field, where more differs than the spelling.
_API_NAMES = {"page_token": "cursor", "after": "cursor", "connection_id": "id"}
_SNAKE_CASE = re.compile(r"(?<!['\"\w])[a-z]+(?:_[a-z]+)+(?!['\"\w])")
_FIELDS_IN_MESSAGES = frozenset(
    {
        "security_mode",
        "security_policy",
        "allow_deprecated_policies",
        "user_certificate",
        "user_private_key",
        "deadband_type",
        "opc_node_id",
        "tag_name",
        "data_type",
    }
)


class Busy(Exception):
    """The caller's tenant has as many requests running as it may."""


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """Why a request cannot be answered."""

    status: HTTPStatus
    message: str
    field: str | None = None
    problems: Sequence[tuple[str, str]] = ()
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def body(self) -> bytes:
        """Return the answer's JSON."""
        error: dict[str, Any] = {"field": self.field, "message": self.message}
        if self.problems:
            error["problems"] = [{"field": name, "message": said} for name, said in self.problems]
        return orjson.dumps({"error": error})


def api_name(name: str) -> str:
    """Return the engine's name of a field as callers know it: `tags[3].opc_node_id` is `tags[3].opcNodeId`."""
    return ".".join(_API_NAMES.get(part, to_camel(part)) for part in name.split("."))


async def answer_error(request: Request, exc: Exception) -> Response:
    """Return the answer to a request that failed with `exc`, and log what an operator should know of it."""
    problem = problem_of(exc, request.scope["state"].get("request_id", ""))
    where = {
        "method": request.method,
        "path": request.url.path,
        "tenant": request.scope["state"].get("tenant", ""),
        "request_id": request.scope["state"].get("request_id", ""),
    }
    match exc:
        case DatabaseUnavailable() | DatabaseNotMigrated() | DatabaseTooNew():
            log.warning("the tenant's database cannot answer", error=str(exc), **where)
        case ConfigurationError() | NotIdentified() | NotAllowed() | Busy():
            log.warning("a request is refused", error=str(exc), **where)
        case TimeoutError():
            log.warning("a request took too long", **where)
        case InvalidInput() | HTTPException() | RequestValidationError():
            log.debug("a request does not fit", status=problem.status.value, field=problem.field, **where)
        case _:
            log.error("a request failed", exc_info=exc, **where)
    return Response(problem.body(), problem.status, dict(problem.headers), media_type=JSON)


def problem_of(exc: Exception, request_id: str) -> Problem:  # noqa: PLR0911  (one line a kind of error)
    """Return what the caller is told about `exc`."""
    match exc:
        case InvalidInput():
            return _invalid(exc)
        case RequestValidationError():
            return _does_not_fit(exc)
        case NotIdentified():
            # Required beside 401 (RFC 9110, 15.5.2); no browser knows this scheme and asks for a password.
            return Problem(
                HTTPStatus.UNAUTHORIZED, str(exc), TENANT, headers={"WWW-Authenticate": "X-Tenant"}
            )
        case NotAllowed():
            return Problem(HTTPStatus.FORBIDDEN, str(exc), TENANT)
        case Busy():
            return Problem(HTTPStatus.TOO_MANY_REQUESTS, str(exc), headers={"Retry-After": "1"})
        case ConfigurationError():
            return Problem(HTTPStatus.SERVICE_UNAVAILABLE, f"the engine is not set up for this: {exc}")
        case DatabaseUnavailable() | DatabaseNotMigrated() | DatabaseTooNew():
            said = "the tenant's database cannot answer now; try again"
            return Problem(HTTPStatus.SERVICE_UNAVAILABLE, said, headers={"Retry-After": "1"})
        case TimeoutError():
            return Problem(HTTPStatus.GATEWAY_TIMEOUT, "this took too long; ask for a smaller part")
        case HTTPException():
            # 400 is what FastAPI makes of JSON that cannot be read, such as one that is nested too deep.
            field = (
                "body"
                if exc.status_code in (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
                else None
            )
            said = str(exc.detail).lower()
            return Problem(HTTPStatus(exc.status_code), said, field, headers=exc.headers or {})
        case _:
            said = f"the server failed; its log says why, for {REQUEST_ID} {request_id}"
            return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, said)


def _invalid(exc: InvalidInput) -> Problem:
    status = HTTPStatus.NOT_FOUND if isinstance(exc, NotFound) else HTTPStatus.BAD_REQUEST
    each = exc.problems if isinstance(exc, InvalidRows) else (exc,)
    told = [(api_name(one.field), _said(one)) for one in each[:_PROBLEMS_MOST]]
    first_field, message = told[0]
    if len(each) > len(told):
        message += f" (the first of {len(each)})"
    return Problem(status, message, first_field, told if len(each) > 1 else ())


def _said(exc: InvalidInput) -> str:
    said = str(exc).removeprefix(f"{exc.field}: ")
    return _SNAKE_CASE.sub(
        lambda found: to_camel(found[0]) if found[0] in _FIELDS_IN_MESSAGES else found[0], said
    )


def _does_not_fit(exc: RequestValidationError) -> Problem:
    told = [_told(error) for error in exc.errors()[:_PROBLEMS_MOST]]
    first_field, message = told[0]
    return Problem(HTTPStatus.BAD_REQUEST, message, first_field, told if len(told) > 1 else ())


def _told(error: Mapping[str, Any]) -> tuple[str, str]:
    """Return the place and the reason of one thing that does not fit."""
    place, *path = error["loc"]
    if error["type"] == "json_invalid":
        return "body", f"is not JSON: {error['ctx']['error'].lower()} at character {path[0]}"
    if not path:
        missing = error["type"] == "missing"
        return str(place), "is missing" if missing else "is not a JSON object sent as application/json"
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    if error["type"] == "missing":
        return name, "is required"
    if error["type"] == "extra_forbidden":
        return name[:_SHOWN_MOST_CHARACTERS], "there is no such field"
    return name, _shown(error) + str(error["msg"]).removeprefix("Input ").removeprefix(
        "Value error, "
    ).lower()


def _shown(error: Mapping[str, Any]) -> str:
    """The value where it is short, and cannot be a secret."""
    value = error["input"]
    if not isinstance(value, str | int | float) or "password" in error["loc"]:
        return ""
    text = repr(value)
    return (text if len(text) <= _SHOWN_MOST_CHARACTERS else f"{text[:_SHOWN_MOST_CHARACTERS]}…") + ": "
