"""What asyncua, the socket and the server can throw, turned into engine.errors, in words for an operator."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

from asyncua import ua
from asyncua.crypto import uacrypto
from asyncua.ua.uaerrors import UaError, UaStatusCodeError
from cryptography.exceptions import InvalidSignature

from engine.errors import ConnectionRefused, ScadaError
from workers.opcua.seam import status_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workers.opcua.seam import RawClient

BAD_SIGNATURE = (InvalidSignature, uacrypto.InvalidSignature)  # type: ignore[attr-defined]
# What asyncua raises when an answer is not what it should be: it checks little, so the interpreter does.
_UNREADABLE = (
    UaError, struct.error, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError,
    OverflowError, RecursionError, *BAD_SIGNATURE,
)  # fmt: skip


@contextmanager
def translated(client: RawClient, doing: str, *, timeout_s: float) -> Iterator[None]:
    """Turn what asyncua and the socket raise into ConnectionRefused; `doing` is what was tried.

    What ended the connection before is raised instead: what was raised here is only how it reached this request.
    """
    try:
        yield
    except ScadaError:
        raise
    except Exception as exc:
        protocol = client.protocol
        if protocol is not None and protocol.failure is not None:
            raise protocol.failure from exc
        if isinstance(exc, (OSError, *_UNREADABLE)):
            raise ConnectionRefused(f"{doing}: {_words(exc, timeout_s)}") from exc
        raise


def _words(exc: Exception, timeout_s: float) -> str:
    """Return the cause in words for an operator."""
    if isinstance(exc, TimeoutError):
        return f"no answer within {timeout_s:g} s"
    if isinstance(exc, socket.gaierror):
        return "the host name is not known"
    if isinstance(exc, OSError):
        return os.strerror(exc.errno).lower() if exc.errno else str(exc)
    if isinstance(exc, UaStatusCodeError):
        return f"{status_name(exc.code)} ({ua.StatusCode(exc.code).doc})"
    return f"the server's answer cannot be read: {exc or type(exc).__name__}"
