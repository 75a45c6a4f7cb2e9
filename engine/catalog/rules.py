"""What a value in the catalog must look like. Pure: reads nothing, asks nobody.

Every rule names the field as the caller knows it and shows the value; a secret is never shown. The limits are those of
the columns in migrations/, so that a value which passes here is not refused, cut or rounded there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal, InvalidOperation
from functools import partial
from urllib.parse import urlsplit

from engine.catalog.node_ids import parse_node_id
from engine.catalog.plain_rules import check_between, check_choice, check_pem, check_text, shown
from engine.catalog.records import NO_SETTINGS, ItemSettings, NewConnection, NewTag
from engine.errors import InvalidInput

# Auto: the strongest that both sides allow.
SECURITY_MODES = ("Auto", "None", "Sign", "SignAndEncrypt")
SECURITY_POLICIES = (
    "Auto",
    "None",
    "Basic128Rsa15",
    "Basic256",
    "Basic256Sha256",
    "Aes128_Sha256_RsaOaep",
    "Aes256_Sha256_RsaPss",
)
DEPRECATED_POLICIES = ("Basic128Rsa15", "Basic256")
DATA_TYPES = (
    "DOUBLE",
    "FLOAT",
    "INT",
    "UINT",
    "LONG",
    "ULONG",
    "BOOLEAN",
    "DATETIME",
    "STRING",
    "ENUM",
    "STRUCT",
)
READ_MODES = ("subscribe", "poll")
DEADBAND_TYPES = ("None", "Absolute", "Percent")
DATA_CHANGE_TRIGGERS = ("Status", "StatusValue", "StatusValueTimestamp")
TIMESTAMPS_TO_RETURN = ("Source", "Server", "Both")
MOST_FAILOVER_URLS = 8

# Bounds what one call may hold in memory; a plant has some thousand tags.
MOST_TAGS_PER_CALL = 100_000
# The same for an import, which takes a minute a million; each tag is some 500 bytes of the command's memory.
MOST_TAGS_PER_IMPORT = 2_000_000
# Between two of these a caller learns how far it is.
_TAGS_PER_STEP = 10_000
_MOST_PROBLEMS_TOLD = 20

_SLUG = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_MOST_SCALING = Decimal("1e15")


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
            "slug", f"{shown(slug)} does not fit: 1 to 63 of a-z, 0-9, - and _, beginning with a letter"
        )


def check_connection(new: NewConnection) -> None:
    """Refuse a connection with a field that does not fit."""
    check_text("name", new.name, most=255)
    if new.description is not None:
        check_text("description", new.description, most=10_000, lines=True)
    check_endpoint_url(new.endpoint_url)
    _check_failover_urls(new)
    _check_security(new)
    _check_user(new)
    check_between("poll_interval_seconds", new.poll_interval_seconds, 1, 86_400)
    for rule in _settings_rules("", new.settings):
        rule()


def check_endpoint_url(url: str, *, field: str = "endpoint_url") -> None:
    """Refuse anything but opc.tcp://host:port with an optional path."""
    check_text(field, url, most=500)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidInput(field, f"{shown(url)} is not opc.tcp://host:port") from None
    if "@" in parts.netloc:
        # Not shown: it may hold a password, which belongs into the password field, where it is sealed.
        raise InvalidInput(field, "holds a user name or password; use the fields username and password")
    if parts.scheme != "opc.tcp" or not parts.hostname or not port or " " in url:
        raise InvalidInput(field, f"{shown(url)} is not opc.tcp://host:port")


def _check_failover_urls(new: NewConnection) -> None:
    if len(new.failover_urls) > MOST_FAILOVER_URLS:
        raise InvalidInput(
            "failover_urls", f"there are {len(new.failover_urls)}; at most {MOST_FAILOVER_URLS} fit"
        )
    for place, url in enumerate(new.failover_urls):
        check_endpoint_url(url, field=f"failover_urls[{place}]")
        if url == new.endpoint_url or url in new.failover_urls[:place]:
            raise InvalidInput(f"failover_urls[{place}]", f"{shown(url)} is there twice")


def _check_security(new: NewConnection) -> None:
    mode, policy = new.security_mode, new.security_policy
    check_choice("security_mode", mode, SECURITY_MODES)
    check_choice("security_policy", policy, SECURITY_POLICIES)
    # Auto leaves the choice to what the other of the two allows.
    if "Auto" not in (mode, policy) and (mode == "None") != (policy == "None"):
        raise InvalidInput(
            "security_policy",
            f"'{policy}' does not go with security_mode '{mode}': both are None or neither, or one is Auto",
        )
    if policy in DEPRECATED_POLICIES and not new.allow_deprecated_policies:
        raise InvalidInput(
            "security_policy",
            f"'{policy}' is deprecated: it rests on SHA-1, which is broken; if the server has nothing better, "
            "set allow_deprecated_policies",
        )


def _check_user(new: NewConnection) -> None:
    if new.username is not None:
        check_text("username", new.username, most=255)
    if new.password is not None and new.username is None:
        raise InvalidInput("password", "is given without a username")
    if new.password is not None and len(new.password) > 1_000:
        raise InvalidInput("password", "has more than 1000 characters")
    if new.user_certificate is not None:
        check_pem("user_certificate", new.user_certificate, "CERTIFICATE")
        if new.user_private_key is None:
            raise InvalidInput("user_certificate", "is given without its user_private_key")
    if new.user_private_key is not None:
        check_pem("user_private_key", new.user_private_key, "PRIVATE KEY")
        if new.user_certificate is None:
            raise InvalidInput("user_private_key", "is given without its user_certificate")


def _settings_rules(prefix: str, settings: ItemSettings) -> Iterator[Callable[[], object]]:
    """Yield a check for each setting that is there; the ranges are those of engine.settings and the columns."""
    for name, choices in (
        ("read_mode", READ_MODES),
        ("deadband_type", DEADBAND_TYPES),
        ("data_change_trigger", DATA_CHANGE_TRIGGERS),
        ("timestamps_to_return", TIMESTAMPS_TO_RETURN),
    ):
        if (word := getattr(settings, name)) is not None:
            yield partial(check_choice, f"{prefix}{name}", word, choices)
    if settings.publishing_interval_ms is not None:
        yield partial(
            check_between, f"{prefix}publishing_interval_ms", settings.publishing_interval_ms, 1, 3_600_000
        )
    if settings.sampling_interval_ms not in (None, -1):
        yield partial(_check_sampling, f"{prefix}sampling_interval_ms", settings.sampling_interval_ms)
    if settings.queue_size is not None:
        yield partial(check_between, f"{prefix}queue_size", settings.queue_size, 1, 1_000_000)
    yield partial(_check_deadband, prefix, settings)


def _check_sampling(field: str, interval_ms: float) -> None:
    if not 0 <= interval_ms <= 3_600_000:
        raise InvalidInput(
            field,
            f"{interval_ms} is neither between 0 and 3600000 nor -1, which means the publishing interval",
        )


def _check_deadband(prefix: str, settings: ItemSettings) -> None:
    """Refuse a type without its value, and a value without its type (OPC 10000-4, 7.22.2)."""
    kind, value, field = settings.deadband_type, settings.deadband_value, f"{prefix}deadband_value"
    if kind is None and value is not None:
        raise InvalidInput(field, f"{value} is given without a deadband_type")
    if kind == "None" and value:
        raise InvalidInput(field, f"{value} does not go with deadband_type 'None'")
    if kind in ("Absolute", "Percent"):
        if value is None:
            raise InvalidInput(field, f"is missing: deadband_type '{kind}' needs it")
        check_between(field, value, 0, 100 if kind == "Percent" else 1e300)


def check_tags(
    tags: Sequence[NewTag], *, most: int = MOST_TAGS_PER_CALL, progress: Callable[[int], None] | None = None
) -> None:
    """Refuse a list of tags when any of them does not fit, naming every one that does not: `tags[3].opc_node_id`.

    `progress` is called now and then with the number of tags that were checked.
    """
    if not tags:
        raise InvalidInput("tags", "there are none")
    if len(tags) > most:
        raise InvalidInput("tags", f"there are {len(tags)}; at most {most} fit in one call")
    problems: list[InvalidInput] = []
    first_place: dict[str, int] = {}
    for place, tag in enumerate(tags):
        problems += _problems(place, tag)
        earlier = first_place.setdefault(tag.opc_node_id, place)
        if earlier != place:
            problems.append(
                InvalidInput(
                    f"tags[{place}].opc_node_id", f"{shown(tag.opc_node_id)} is already tags[{earlier}]"
                )
            )
        if progress is not None and place % _TAGS_PER_STEP == 0:
            progress(place)
    if problems:
        raise InvalidRows(problems)


def _problems(place: int, tag: NewTag) -> list[InvalidInput]:
    problems = []
    for name, rule in _TAG_RULES:
        try:
            rule(name, tag)
        except InvalidInput as exc:
            # Put together only here: of a million tags nearly all fit.
            problems.append(_of_tag(place, exc))
    if tag.settings is not NO_SETTINGS:
        for settings_rule in _settings_rules("", tag.settings):
            try:
                settings_rule()
            except InvalidInput as exc:
                problems.append(_of_tag(place, exc))
    return problems


def _of_tag(place: int, problem: InvalidInput) -> InvalidInput:
    """Return the problem of a tag's field as one of a field of the list."""
    return InvalidInput(f"tags[{place}].{problem.field}", str(problem).removeprefix(f"{problem.field}: "))


def check_node_id(field: str, node_id: str) -> None:
    """Refuse a text that names no node; the notation is engine.catalog.node_ids'."""
    check_text(field, node_id, most=500)
    parse_node_id(node_id, field=field)


def _check_unit(field: str, tag: NewTag) -> None:
    if tag.unit is not None:
        check_text(field, tag.unit, most=50)


def decimal_of(field: str, number: float | Decimal, *, may_be_zero: bool = True) -> Decimal:
    """Return the number as it was written, for a numeric column; refuse NaN, infinities and more than 1e15."""
    try:
        exact = number if isinstance(number, Decimal) else Decimal(str(number))
    except InvalidOperation:
        raise InvalidInput(field, f"{shown(number)} is not a number") from None
    if not exact.is_finite() or abs(exact) > _MOST_SCALING:
        raise InvalidInput(field, f"{number} is not a number between -1e15 and 1e15")
    if exact == 0 and not may_be_zero:
        raise InvalidInput(field, "0 would make every value the same")
    return exact


# A tag's fields but its settings, and what each must look like.
_TAG_RULES: tuple[tuple[str, Callable[[str, NewTag], object]], ...] = (
    ("tag_name", lambda field, tag: check_text(field, tag.tag_name, most=255)),
    ("opc_node_id", lambda field, tag: check_node_id(field, tag.opc_node_id)),
    ("data_type", lambda field, tag: check_choice(field, tag.data_type, DATA_TYPES)),
    ("scaling_factor", lambda field, tag: decimal_of(field, tag.scaling_factor, may_be_zero=False)),
    ("offset", lambda field, tag: decimal_of(field, tag.offset)),
    ("unit", _check_unit),
)
