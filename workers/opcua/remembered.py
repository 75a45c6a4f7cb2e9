"""What a new process needs to go on with the session of one that died: a file for each connection.

Owns the file: its format, when it is there, and what makes it void. Owns no request: a session that is recalled goes
the same way as one whose connection was lost (resume.py), and is refused by the server when it has expired: no clock
decides.

    line 1     "scada-session 1", the format's version
    then       SHA-256 of all that follows, 32 bytes; the length of the JSON, u32 little-endian
    JSON       address, ticket, limits, subscriptions, a fingerprint of what the connection is configured to be, and
               name, type and length of each array
    arrays     the columns of Monitoring and Addresses, one after the other, little-endian

Invariants:
- The file says what is on the server, or it is not there: it is removed before subscriptions or items are changed, and
  written when that is done. A process that dies in between leaves a session that nobody goes on with; it expires.
- It is written only when the journal says of each subscription that it has begun (a position before its first
  message): servers give the same small ids again, and the position of an earlier subscription is not this one's.
- Anything wrong with it (cut short, changed, another version, other tags or settings) means that it is removed.
- What it holds can take over the session: mode 0600. No password is in it.

How far each subscription's messages came is not in the file: the journal knows (engine.frames.Position).
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import struct
from base64 import b64decode, b64encode
from contextlib import suppress
from dataclasses import asdict, astuple, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import structlog
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import nodeid_from_binary, nodeid_to_binary

from engine import variants
from workers.opcua.monitoring.limits import Limits
from workers.opcua.monitoring.nodes import Addresses
from workers.opcua.monitoring.outcome import Monitoring
from workers.opcua.monitoring.ways import ways_of
from workers.opcua.resume import Held
from workers.opcua.security.endpoints import Endpoint
from workers.opcua.security.handshake import SessionTicket
from workers.opcua.security.tokens import TokenPolicy

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from uuid import UUID

    from engine.catalog.connection import Connection
    from workers.opcua.line import Line
    from workers.opcua.monitoring.nodes import Columns

log = structlog.get_logger(__name__)

_FIRST_LINE = b"scada-session 1\n"
_DIGEST_BYTES = 32
_LENGTH = struct.Struct("<I")
# A file that is larger than this is none of ours: a tag takes about 20 bytes, with a browse path 100 more.
_MOST_BYTES = 4 * 1024 * 1024
_MOST_BYTES_OF_TAG = 1_024
_DTYPES = {"u1": np.uint8, "u2": np.uint16, "u4": np.uint32, "i4": np.int32}
# What of settings.opcua decides over the subscriptions and the items of a session, and over who we are.
_SETTINGS = (
    "publishing_interval_ms",
    "sampling_interval_ms",
    "queue_size",
    "keep_alive_count",
    "lifetime_count",
    "max_notifications_per_publish",
    "application_uri",
)


class Remembered:
    """The file of one connection; single event loop."""

    def __init__(
        self, folder: Path, connection: Connection, positions: Mapping[tuple[UUID, int], int]
    ) -> None:
        """`positions` is what the journal has recovered.

        By connection and subscription id: the number of the newest message whose values are in it.
        """
        self._path = folder / str(connection.id)
        self._positions = positions
        self.saved = False
        """Whether a file is there that the next process could go on with; what it says of the ticket may be old."""
        self._fingerprint = ""
        self._changes = 0
        self._saves = itertools.count()

    async def recall(self, line: Line) -> Held | None:
        """Return the session of the process before, None when there is none, or none that is of use."""
        try:
            data = await asyncio.to_thread(self._read, len(line.connection.tags))
            held = None if data is None else self._decoded(data, line)
        except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, struct.error) as exc:
            log.info(
                "a remembered session is of no use",
                connection=line.connection.name,
                reason=str(exc) or repr(exc),
            )
            held = None
        if held is None:
            self.forget()
        self.saved = held is not None
        return held

    def forget(self) -> None:
        """Remove the file: the session ends, or is about to change; a `save` that has begun does nothing any more."""
        self._changes += 1
        self.saved = False
        with suppress(FileNotFoundError):
            try:
                self._path.unlink()
            except FileNotFoundError:
                raise
            except OSError as exc:
                log.warning("a remembered session cannot be removed", error=str(exc))

    async def save(self, line: Line, held: Held) -> bool:
        """Write what is known of a session, unless `forget` is called meanwhile; return whether it was written."""
        changes = self._changes
        new = self._path.with_name(f"{self._path.name}.{next(self._saves)}.new")
        try:
            data = self._encoded(held, line)
            await asyncio.to_thread(_write, new, data)
            if changes != self._changes:
                new.unlink()
                return False
            new.replace(self._path)
        except (OSError, TypeError, ValueError) as exc:
            # TypeError: texts that are no Unicode, of a server.
            log.info("a session cannot be remembered", connection=line.connection.name, reason=str(exc))
            with suppress(OSError):
                new.unlink()
            return False
        self.saved = True
        return True

    def _read(self, tags: int) -> bytes | None:
        for left in self._path.parent.glob(f"{self._path.name}.*.new"):
            left.unlink(missing_ok=True)
        try:
            with self._path.open("rb") as file:
                most = _MOST_BYTES + tags * _MOST_BYTES_OF_TAG
                data = file.read(most + 1)
        except FileNotFoundError:
            return None
        if len(data) > most:
            raise ValueError(f"it has more than {most} bytes")
        return data

    def _encoded(self, held: Held, line: Line) -> bytes:
        monitored, said = held.monitoring.remember()
        named, addresses = held.monitoring.addresses.remember()
        columns = {**monitored, **named}
        started = held.server_started
        head = orjson.dumps(
            {
                "fingerprint": self._fingerprint_of(line),
                "endpoint_url": held.endpoint_url,
                "ticket": _ticket_said(held.ticket),
                "limits": asdict(held.limits),
                "server_started": started.isoformat() if isinstance(started, datetime) else None,
                "monitoring": said,
                "addresses": addresses,
                "ended": [flow.ended for flow in held.flows],
                "arrays": [[name, array.dtype.str[1:], len(array)] for name, array in columns.items()],
            }
        )
        body = b"".join((_LENGTH.pack(len(head)), head, *(array.tobytes() for array in columns.values())))
        return _FIRST_LINE + hashlib.sha256(body).digest() + body

    def _decoded(self, data: bytes, line: Line) -> Held:
        """Return the session. Raises ValueError, TypeError, KeyError, ... when it is none, or of other tags."""
        start = len(_FIRST_LINE) + _DIGEST_BYTES
        if not data.startswith(_FIRST_LINE):
            raise ValueError("it is of another version")
        body = data[start:]
        if hashlib.sha256(body).digest() != data[len(_FIRST_LINE) : start]:
            raise ValueError("its checksum is wrong")
        (length,) = _LENGTH.unpack_from(body)
        said = orjson.loads(body[_LENGTH.size : _LENGTH.size + length])
        if said["fingerprint"] != self._fingerprint_of(line):
            raise ValueError("the connection, its tags or the settings were changed")
        columns = _columns(said["arrays"], body, _LENGTH.size + length)
        connection = line.connection
        addresses = Addresses(connection.tags, ())
        addresses.recall(columns, said["addresses"])
        monitoring = Monitoring(connection.tags, addresses)
        monitoring.recall(columns, said["monitoring"])
        monitoring.ways, _ = ways_of(connection.tags, connection.settings, line.settings)
        started = said["server_started"]
        held = Held(
            endpoint_url=said["endpoint_url"],
            ticket=_ticket(said["ticket"]),
            monitoring=monitoring,
            limits=Limits(**said["limits"]),
            server_started=datetime.fromisoformat(started) if started else None,
            text_of=variants.text_of,
            restored=True,
        )
        for at, ended in zip(range(len(monitoring.subscriptions)), said["ended"], strict=True):
            flow = line.flow(monitoring, at)
            flow.ended = bool(ended)
            flow.begun = flow.restored = True
            if number := self._positions.get((connection.id, flow.subscription_id), 0):
                flow.took(number)
            held.flows.append(flow)
        return held

    def _fingerprint_of(self, line: Line) -> str:
        """Return what changes when a session of this connection has to be made anew."""
        if not self._fingerprint:
            tags, connection = line.connection.tags, line.connection
            text, _, ends = tags.spans(np.arange(len(tags), dtype=np.int32))
            digest = hashlib.sha256(text)
            for column in (ends, tags.tag_id, tags.profile):
                digest.update(column.tobytes())
            plain = replace(connection, password=None, user_private_key=None)
            configured = (
                plain.id, plain.endpoint_urls, plain.security_mode, plain.security_policy, plain.username,
                plain.user_certificate, plain.allow_deprecated_policies, plain.allow_plain_password,
                plain.settings, tags.profiles, line.most_rows,
                [getattr(line.settings, name) for name in _SETTINGS],
            )  # fmt: skip
            digest.update(repr(configured).encode("utf-8", "surrogateescape"))
            self._fingerprint = digest.hexdigest()
        return self._fingerprint


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # No fsync: a machine that lost its power has no session either, as a rule; a file that is not whole is not used.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(data)


def _columns(listed: list[tuple[str, str, int]], body: bytes, offset: int) -> Columns:
    columns: Columns = {}
    for name, kind, count in listed:
        columns[name] = np.frombuffer(body, np.dtype(_DTYPES[kind]).newbyteorder("<"), count, offset)
        offset += columns[name].nbytes
    return columns


def _ticket_said(ticket: SessionTicket) -> dict[str, Any]:
    endpoint = ticket.endpoint
    return {
        "url": endpoint.url,
        "mode": endpoint.mode,
        "policy_uri": endpoint.policy_uri,
        "certificate": b64encode(endpoint.certificate).decode(),
        "tokens": [astuple(token) for token in endpoint.tokens],
        "application_uri": endpoint.application_uri,
        "security_level": endpoint.security_level,
        "token": astuple(ticket.token),
        "timeout_ms": ticket.timeout_ms,
        "authentication_token": b64encode(nodeid_to_binary(ticket.authentication_token)).decode(),
        "server_nonce": b64encode(ticket.server_nonce).decode(),
    }


def _ticket(said: Mapping[str, Any]) -> SessionTicket:
    return SessionTicket(
        endpoint=Endpoint(
            url=said["url"],
            mode=said["mode"],
            policy_uri=said["policy_uri"],
            certificate=b64decode(said["certificate"]),
            tokens=tuple(TokenPolicy(*token) for token in said["tokens"]),
            application_uri=said["application_uri"],
            security_level=said["security_level"],
        ),
        token=TokenPolicy(*said["token"]),
        timeout_ms=float(said["timeout_ms"]),
        authentication_token=nodeid_from_binary(Buffer(b64decode(said["authentication_token"]))),
        server_nonce=b64decode(said["server_nonce"]),
    )
