"""How a tag names its node: the one grammar, for the catalog's rules and for the wire.

Owns the notation and nothing of a server: namespace URIs stay URIs here, a browse path stays a path. Pure.

    ns=2;s=Well1.Pressure       string in namespace 2; likewise i= (number), g= (GUID), b= (base64)
    i=2258                      namespace 0
    nsu=urn:plant;s=Pressure    the namespace by its URI, whatever its index is today; in a URI, %3B is ; and %25 is %
                                (OPC 10000-6, 5.3.1.10)
    /Objects/2:Plant/2:Temp     browse path from the Root node along hierarchical references; 2: is the name's namespace
                                (none: 0), nsu=urn:plant; may stand for it. In a name, & makes the next character an
                                ordinary one: & / . < > : # ! need it (OPC 10000-4, A.2), and [ where [3] ends a name
    any of them with [3], [1,2] one element of an array, counted from 0 in each dimension

Servers name nodes with brackets too (`ns=3;s="DB1"."Level"[3]`), so after s= the text cannot tell which is meant.
Such an address carries both: `element` with the shorter identifier, and `literal`, the whole identifier. A node with
the whole name is the one that is meant where the server has it; only where it has none, it is an element.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn
from uuid import UUID

from engine.errors import InvalidInput

_NODE_ID = re.compile(
    r"(?:ns=(?P<index>\d{1,5});|nsu=(?P<uri>[^;]+);)?(?P<kind>[isgb])=(?P<value>.+)", re.DOTALL | re.ASCII
)
_ELEMENT = re.compile(r"\[((?:0|[1-9]\d{0,9})(?:,(?:0|[1-9]\d{0,9}))*)\]\Z", re.ASCII)
_INDEXED_NAME = re.compile(r"(?:(?P<index>\d{1,5}):|nsu=(?P<uri>[^;]+);)?(?P<name>.+)", re.DOTALL | re.ASCII)
# The reserved characters of OPC 10000-4, A.2, with a meaning that we do not use; / and & are seen to before.
_RESERVED = ".<>:#!"
# What stands for an escaped character while a path is taken apart: U+E000 and up are private, and are refused before.
_HIDDEN = 0xE000
_MOST_UINT16 = 0xFFFF
_MOST_UINT32 = 0xFFFFFFFF
# A URI of a namespace has no more than this in any server we know of; bounds what a text can ask for.
MOST_CHARACTERS = 4_096


class NodeKind(StrEnum):
    """What identifies a node; the value is the letter of the notation."""

    NUMBER = "i"
    STRING = "s"
    GUID = "g"
    OPAQUE = "b"
    PATH = "/"


@dataclass(frozen=True, slots=True)
class PathPart:
    """A browse name of a path; its namespace is `namespace_uri`, or where that is None `namespace_index`."""

    name: str
    namespace_index: int = 0
    namespace_uri: str | None = None

    def __str__(self) -> str:
        name = re.sub(r"[/&.<>:#!\[]", r"&\g<0>", self.name)
        if self.namespace_uri is not None:
            uri = re.sub(r"[/&]", r"&\g<0>", _escaped_uri(self.namespace_uri))
            return f"nsu={uri};{name}"
        # A name may begin like a URI's mark.
        bare = not self.namespace_index and not name.startswith("nsu=")
        return name if bare else f"{self.namespace_index}:{name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeAddress:
    """A node as a tag names it. Its namespace is `namespace_uri`, or where that is None `namespace_index`.

    `str()` gives the text back, in its shortest form.
    """

    kind: NodeKind
    identifier: int | str | UUID | bytes | None = None
    """int, str, UUID or bytes, as `kind` says; None for a path."""
    namespace_index: int = 0
    namespace_uri: str | None = None
    browse_path: tuple[PathPart, ...] = ()
    """From the Root node (i=84) to the node; empty for all other kinds."""
    element: tuple[int, ...] | None = None
    """Which element of an array is read, from 0, one number a dimension; None: the whole value."""
    literal: str | None = None
    """The identifier with its brackets, where a string identifier may be meant to end in them; to be tried first."""

    @property
    def index_range(self) -> str | None:
        """The element as a NumericRange (OPC 10000-4, 7.27): `3`, `1,2`; None for the whole value."""
        return None if self.element is None else ",".join(map(str, self.element))

    def __str__(self) -> str:
        suffix = "" if self.element is None else f"[{self.index_range}]"
        if self.kind is NodeKind.PATH:
            return "".join(f"/{part}" for part in self.browse_path) + suffix
        if self.namespace_uri is not None:
            namespace = f"nsu={_escaped_uri(self.namespace_uri)};"
        else:
            namespace = f"ns={self.namespace_index};" if self.namespace_index else ""
        value = self.identifier
        if isinstance(value, bytes):
            value = base64.b64encode(value).decode("ascii")
        return f"{namespace}{self.kind}={value}{suffix}"


def parse_node_id(text: str, *, field: str = "opc_node_id") -> NodeAddress:
    """Return what a text in this module's notation means; raises InvalidInput, which names `field`.

    The notation is OPC 10000-6, 5.3.1.10 for node ids and OPC 10000-4, A.2 for browse paths.
    """
    if len(text) > MOST_CHARACTERS:
        raise InvalidInput(field, f"has {len(text)} characters; at most {MOST_CHARACTERS} fit")
    if text.startswith("/"):
        return _parse_path(text, field)
    found = _NODE_ID.fullmatch(text)
    if not found:
        _refuse(
            field, text, "is not a node id such as ns=2;s=Well1.Pressure, i=2258 or /Objects/2:Plant/2:Temp"
        )
    index = int(found["index"] or 0)
    if index > _MOST_UINT16:
        _refuse(field, text, "has a namespace index above 65535")
    kind = NodeKind(found["kind"])
    value = found["value"]
    shorter, element = _split_element(value, field, text)
    identifier = _identifier(kind, shorter)
    if identifier is None:
        kinds = {"i": "number up to 4294967295", "s": "text", "g": "GUID", "b": "base64"}
        _refuse(field, text, f"has no {kinds[kind]} after {kind}=")
    return NodeAddress(
        kind=kind,
        identifier=identifier,
        namespace_index=index,
        namespace_uri=None if found["uri"] is None else _uri(found["uri"], field, text),
        element=element,
        literal=value if kind is NodeKind.STRING and element is not None else None,
    )


def _parse_path(text: str, field: str) -> NodeAddress:
    hidden, escaped = _hide_escaped(text, field)
    path, element = _split_element(hidden, field, text)
    parts = tuple(_part(part, escaped, field, text) for part in path[1:].split("/"))
    return NodeAddress(kind=NodeKind.PATH, browse_path=parts, element=element)


def _hide_escaped(text: str, field: str) -> tuple[str, list[str]]:
    """Replace each `&x` by a character that cannot be in the text; return also what they stand for."""
    escaped: list[str] = []
    if any(_HIDDEN <= ord(character) < _HIDDEN + 0x1900 for character in text):
        _refuse(field, text, "holds characters of a private use area of Unicode")

    def hide(found: re.Match[str]) -> str:
        if not found[1]:
            _refuse(field, text, "ends in &, which needs a character behind it")
        escaped.append(found[1])
        return chr(_HIDDEN + len(escaped) - 1)

    return re.sub(r"&(.?)", hide, text, flags=re.DOTALL), escaped


def _part(part: str, escaped: list[str], field: str, text: str) -> PathPart:
    def shown(some: str) -> str:
        return "".join(
            escaped[ord(one) - _HIDDEN] if _HIDDEN <= ord(one) < _HIDDEN + len(escaped) else one
            for one in some
        )

    found = _INDEXED_NAME.fullmatch(part)
    if not found:
        _refuse(field, text, "has a / without a browse name behind it")
    reserved = next((character for character in found["name"] if character in _RESERVED), None)
    if reserved is not None:
        _refuse(field, text, f"has {reserved!r} in a browse name; write &{reserved} for the character itself")
    if int(found["index"] or 0) > _MOST_UINT16:
        _refuse(field, text, "has a namespace index above 65535")
    return PathPart(
        name=shown(found["name"]),
        namespace_index=int(found["index"] or 0),
        namespace_uri=None if found["uri"] is None else _uri(shown(found["uri"]), field, text),
    )


def _split_element(value: str, field: str, text: str) -> tuple[str, tuple[int, ...] | None]:
    """Take the `[1,2]` off the end. Brackets that no index stands in, or nothing before, are part of the name."""
    found = _ELEMENT.search(value)
    if not found or not found.start():
        return value, None
    element = tuple(map(int, found[1].split(",")))
    if max(element) > _MOST_UINT32:
        _refuse(field, text, "has an array index above 4294967295")
    return value[: found.start()], element


def _identifier(kind: NodeKind, value: str) -> int | str | UUID | bytes | None:
    """Return the identifier, or None where the text is none of this kind."""
    if kind is NodeKind.NUMBER:
        fits = value.isascii() and value.isdigit() and len(value) <= 10 and int(value) <= _MOST_UINT32
        return int(value) if fits else None
    if kind is NodeKind.STRING:
        return value
    try:
        if kind is NodeKind.OPAQUE:
            return base64.b64decode(value, validate=True) or None
        guid = UUID(value)
    except (binascii.Error, ValueError):
        return None
    # UUID() also takes braces, urn:uuid: and missing dashes.
    return guid if str(guid) == value.lower() else None


def _uri(text: str, field: str, whole: str) -> str:
    if re.search(r"%(?!3B|25)", text, re.IGNORECASE):
        # Written by hand, a % is more often meant as it stands; but then the same URI has two notations.
        _refuse(field, whole, "has % in a namespace URI; write %25 for it, and %3B for ;")
    return re.sub(r"%3B", ";", text, flags=re.IGNORECASE).replace("%25", "%")


def _escaped_uri(uri: str) -> str:
    return uri.replace("%", "%25").replace(";", "%3B")


def _refuse(field: str, text: str, why: str) -> NoReturn:
    shown = repr(text)
    if len(shown) > 100:
        shown = f"{shown[:80]}…{shown[-1]}"
    raise InvalidInput(field, f"{shown} {why}") from None
