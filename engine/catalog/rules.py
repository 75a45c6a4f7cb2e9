"""What a value in the catalog must look like. Pure: reads nothing, asks nobody.

Every rule names the field as the caller knows it and shows the value; a secret is never shown. The limits are those of
the columns in migrations/, so that a value which passes here is not refused, cut or rounded there.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal, InvalidOperation
from urllib.parse import urlsplit
from uuid import UUID

from engine.catalog.records import NewConnection, NewTag
from engine.errors import InvalidInput

SECURITY_MODES = ("None", "Sign", "SignAndEncrypt")
SECURITY_POLICIES = (
    "None",
    "Basic128Rsa15",
    "Basic256",
    "Basic256Sha256",
    "Aes128_Sha256_RsaOaep",
    "Aes256_Sha256_RsaPss",
)
DATA_TYPES = ("DOUBLE", "FLOAT", "INT", "UINT", "LONG", "ULONG", "BOOLEAN", "DATETIME", "STRING")

# Bounds what one call may hold in memory; a plant has some thousand tags.
MOST_TAGS_PER_CALL = 100_000
_MOST_PROBLEMS_TOLD = 20

_SLUG = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_NODE_ID = re.compile(
    r"(?:ns=(?P<index>\d{1,5});|nsu=(?P<uri>[^;]+);)?(?P<type>[isgb])=(?P<value>.+)", re.DOTALL
)
_MOST_SCALING = Decimal("1e15")
# Also lone surrogates, which no UTF-8 text can hold.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class InvalidRows(InvalidInput):
    """Several values of one request do not fit; `problems` has every one of them."""

    def __init__(self, problems: Sequence[InvalidInput]) -> None:
        told = [str(problem) for problem in problems[1:_MOST_PROBLEMS_TOLD]]
        if len(problems) > _MOST_PROBLEMS_TOLD:
            told.append(f"and {len(problems) - _MOST_PROBLEMS_TOLD} more")
        first = str(problems[0]).removeprefix(f"{problems[0].field}: ")
        super().__init__(problems[0].field, "; ".join([first, *told]))
        self.problems = tuple(problems)


def check_slug(slug: str) -> None:
    """Refuse a slug that cannot be used in metrics, file names and commands."""
    if not _SLUG.fullmatch(slug):
        raise InvalidInput(
            "slug", f"{_shown(slug)} does not fit: 1 to 63 of a-z, 0-9, - and _, beginning with a letter"
        )


def check_text(field: str, text: str, *, most: int, lines: bool = False) -> None:
    """Refuse a text that is empty, longer than `most` characters, or holds control characters.

    `lines` allows line breaks and tabs.
    """
    if not text.strip():
        raise InvalidInput(field, f"{_shown(text)} is empty")
    if len(text) > most:
        raise InvalidInput(field, f"{_shown(text)} has {len(text)} characters; at most {most} fit")
    if _CONTROL.search(re.sub(r"[\n\r\t]", "", text) if lines else text):
        raise InvalidInput(field, f"{_shown(text)} holds characters that cannot be printed")


def check_connection(new: NewConnection) -> None:
    """Refuse a connection with a field that does not fit."""
    check_text("name", new.name, most=255)
    if new.description is not None:
        check_text("description", new.description, most=10_000, lines=True)
    check_endpoint_url(new.endpoint_url)
    _check_choice("security_mode", new.security_mode, SECURITY_MODES)
    _check_choice("security_policy", new.security_policy, SECURITY_POLICIES)
    if (new.security_mode == "None") != (new.security_policy == "None"):
        raise InvalidInput(
            "security_policy",
            f"'{new.security_policy}' does not go with security_mode '{new.security_mode}': both are None or neither",
        )
    if new.username is not None:
        check_text("username", new.username, most=255)
    if new.password is not None and new.username is None:
        raise InvalidInput("password", "is given without a username")
    if new.password is not None and len(new.password) > 1_000:
        raise InvalidInput("password", "has more than 1000 characters")
    if not 1 <= new.poll_interval_seconds <= 86_400:
        raise InvalidInput("poll_interval_seconds", f"{new.poll_interval_seconds} is not between 1 and 86400")


def check_endpoint_url(url: str) -> None:
    """Refuse anything but opc.tcp://host:port with an optional path."""
    check_text("endpoint_url", url, most=500)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidInput("endpoint_url", f"{_shown(url)} is not opc.tcp://host:port") from None
    if "@" in parts.netloc:
        # Not shown: it may hold a password, which belongs into the password field, where it is sealed.
        raise InvalidInput(
            "endpoint_url", "holds a user name or password; use the fields username and password"
        )
    if parts.scheme != "opc.tcp" or not parts.hostname or not port or " " in url:
        raise InvalidInput("endpoint_url", f"{_shown(url)} is not opc.tcp://host:port")


def check_tags(tags: Sequence[NewTag]) -> None:
    """Refuse a list of tags when any of them does not fit, naming every one that does not: `tags[3].opc_node_id`."""
    if not tags:
        raise InvalidInput("tags", "there are none")
    if len(tags) > MOST_TAGS_PER_CALL:
        raise InvalidInput("tags", f"there are {len(tags)}; at most {MOST_TAGS_PER_CALL} fit in one call")
    problems: list[InvalidInput] = []
    first_place: dict[str, int] = {}
    for place, tag in enumerate(tags):
        problems += _problems(f"tags[{place}].", tag)
        earlier = first_place.setdefault(tag.opc_node_id, place)
        if earlier != place:
            problems.append(
                InvalidInput(
                    f"tags[{place}].opc_node_id", f"{_shown(tag.opc_node_id)} is already tags[{earlier}]"
                )
            )
    if problems:
        raise InvalidRows(problems)


def _problems(prefix: str, tag: NewTag) -> Iterable[InvalidInput]:
    rules: list[Callable[[], object]] = [
        lambda: check_text(f"{prefix}tag_name", tag.tag_name, most=255),
        lambda: check_node_id(f"{prefix}opc_node_id", tag.opc_node_id),
        lambda: _check_choice(f"{prefix}data_type", tag.data_type, DATA_TYPES),
        lambda: decimal_of(f"{prefix}scaling_factor", tag.scaling_factor, may_be_zero=False),
        lambda: decimal_of(f"{prefix}offset", tag.offset),
    ]
    if tag.unit is not None:
        unit = tag.unit
        rules.append(lambda: check_text(f"{prefix}unit", unit, most=50))
    for rule in rules:
        try:
            rule()
        except InvalidInput as exc:
            yield exc


def check_node_id(field: str, node_id: str) -> None:
    """Refuse a text that is no NodeId in the notation of OPC 10000-6, 5.3.1.10: `ns=2;s=Well1.Pressure`, `i=2258`."""
    check_text(field, node_id, most=500)
    found = _NODE_ID.fullmatch(node_id)
    if not found:
        raise InvalidInput(
            field, f"{_shown(node_id)} is not a node id such as ns=2;s=Well1.Pressure or i=2258"
        )
    if found["index"] and int(found["index"]) > 0xFFFF:
        raise InvalidInput(field, f"{_shown(node_id)} has a namespace index above 65535")
    if not _fits(found["type"], found["value"]):
        kinds = {"i": "a number up to 4294967295", "s": "a text", "g": "a GUID", "b": "base64"}
        raise InvalidInput(
            field, f"{_shown(node_id)} has no {kinds[found['type']][2:]} after {found['type']}="
        )


def _fits(kind: str, value: str) -> bool:
    if kind == "i":
        return value.isascii() and value.isdigit() and len(value) <= 10 and int(value) <= 0xFFFFFFFF
    if kind == "g":
        try:
            return str(UUID(value)) == value.lower()
        except ValueError:
            return False
    if kind == "b":
        try:
            return bool(base64.b64decode(value, validate=True))
        except (binascii.Error, ValueError):
            return False
    return True


def decimal_of(field: str, number: float | Decimal, *, may_be_zero: bool = True) -> Decimal:
    """Return the number as it was written, for a numeric column; refuse NaN, infinities and more than 1e15."""
    try:
        exact = number if isinstance(number, Decimal) else Decimal(str(number))
    except InvalidOperation:
        raise InvalidInput(field, f"{_shown(number)} is not a number") from None
    if not exact.is_finite() or abs(exact) > _MOST_SCALING:
        raise InvalidInput(field, f"{number} is not a number between -1e15 and 1e15")
    if exact == 0 and not may_be_zero:
        raise InvalidInput(field, "0 would make every value the same")
    return exact


def _check_choice(field: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise InvalidInput(field, f"{_shown(value)} is not one of {', '.join(choices)}")


def _shown(value: object) -> str:
    """The value for a message: quoted, and cut where it is too long to read."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:80]}…{text[-1]}"
