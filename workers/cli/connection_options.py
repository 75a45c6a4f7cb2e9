"""The options of `connection add`, in groups, and what they mean for the catalog, which owns the rules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import click

from engine import catalog
from engine.catalog.plain_rules import MOST_PEM_CHARACTERS
from engine.errors import InvalidInput

Command = Callable[..., Any]
_Option = Callable[..., Callable[[Command], Command]]

_GROUPS = (
    "Security",
    "User",
    "How its tags are read, unless a tag says otherwise",
)


class GroupedOption(click.Option):
    """An option with a heading of --help that it stands under."""

    def __init__(self, *args: Any, group: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group


class GroupedCommand(click.Command):
    """A command whose --help has a section for each group of options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options without a group first."""
        for heading in ("Options", *_GROUPS):
            records = [
                record
                for param in self.get_params(ctx)
                if isinstance(param, click.Option)
                and getattr(param, "group", "Options") == heading
                and (record := param.get_help_record(ctx)) is not None
            ]
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


def _option(group: int, *names: str, default: Any = None, **attributes: Any) -> _Option:
    """Return what makes an option; its default holds only for a new connection."""

    def made(*, new: bool) -> Callable[[Command], Command]:
        return click.option(
            *names,
            cls=GroupedOption,
            group=_GROUPS[group],
            default=default if new else None,
            show_default=new and default not in (None, False),
            **attributes,
        )

    return made


_PEM_FILE = click.Path(path_type=Path)

_OPTIONS = (
    _option(0, "--security-mode", type=click.Choice(catalog.SECURITY_MODES), default="Auto",
            help="Auto: the strongest that the server offers."),
    _option(0, "--security-policy", type=click.Choice(catalog.SECURITY_POLICIES), default="Auto",
            metavar="POLICY",
            help="Auto: the strongest that goes with the mode; else None, Basic256Sha256, Aes128_Sha256_RsaOaep, "
            "Aes256_Sha256_RsaPss, or a deprecated one."),
    _option(0, "--allow-deprecated-policies/--forbid-deprecated-policies", default=False,
            help="Also Basic128Rsa15 and Basic256, for old devices: both rest on SHA-1, which is broken."),
    _option(1, "--username", help="For servers that want one; without it, and without a certificate: anonymous."),
    _option(1, "--password-file", type=click.File("r"), metavar="FILE",
            help="Its password, kept sealed; - reads it from stdin."),
    _option(1, "--allow-plain-password/--forbid-plain-password", default=False,
            help="Send the password readable where the server offers nothing better."),
    _option(1, "--user-certificate", "user_certificate_file", type=_PEM_FILE, metavar="FILE",
            help="The user's X509 certificate, PEM; needs its key."),
    _option(1, "--user-private-key", "user_private_key_file", type=_PEM_FILE, metavar="FILE",
            help="The certificate's key, PEM without a passphrase; kept sealed."),
    _option(2, "--poll/--subscribe", help="Read the tags every --poll-interval; do not subscribe."),
    _option(2, "--poll-interval", "poll_interval_seconds", type=int, default=60, metavar="SECONDS",
            help="For what is polled."),
    _option(2, "--publishing-interval-ms", type=float, metavar="MS", help="How often the server reports changes."),
    _option(2, "--sampling-interval-ms", type=float, metavar="MS",
            help="How often it looks for one; -1: the publishing interval, 0: as fast as it can."),
    _option(2, "--queue-size", type=int, metavar="N", help="Changes of a tag that it keeps between two reports."),
    _option(2, "--discard-oldest/--discard-newest", help="Which one goes when the queue is full."),
    _option(2, "--deadband", metavar="N|N%",
            help="The least change to report: 0.5 in raw units, or 2% of the node's EURange."),
    _option(2, "--data-change-trigger", type=click.Choice(catalog.DATA_CHANGE_TRIGGERS),
            help="What counts as a change."),
    _option(2, "--timestamps-to-return", type=click.Choice(catalog.TIMESTAMPS_TO_RETURN),
            help="Whose times are asked for."),
)  # fmt: skip


def connection_options(*, new: bool) -> Callable[[Command], Command]:
    """Give a command the options of a connection; `connection_fields` turns them into fields of NewConnection.

    For one that is not new, what is not given is None.
    """

    def decorate(function: Command) -> Command:
        for option in reversed(_OPTIONS):
            function = option(new=new)(function)
        return function

    return decorate


def connection_fields(
    *,
    poll: bool | None,
    deadband: str | None,
    password_file: TextIO | None,
    user_certificate_file: Path | None,
    user_private_key_file: Path | None,
    **values: Any,
) -> dict[str, Any]:
    """Return the fields of NewConnection that the options stand for; reads the files."""
    deadband_type, deadband_value = (None, None) if deadband is None else _deadband(deadband)
    own = {"read_mode", "deadband_type", "deadband_value"}
    settings = catalog.ItemSettings(
        read_mode=None if poll is None else "poll" if poll else "subscribe",
        deadband_type=deadband_type,
        deadband_value=deadband_value,
        **{name: values.pop(name) for name in catalog.ITEM_COLUMNS if name not in own},
    )
    return values | {
        "settings": settings,
        "password": password_file and password_file.readline().rstrip("\r\n"),
        "user_certificate": _pem("--user-certificate", user_certificate_file),
        "user_private_key": _pem("--user-private-key", user_private_key_file),
    }


def _deadband(text: str) -> tuple[str, float]:
    number = text.removesuffix("%")
    try:
        return ("Absolute" if number == text else "Percent"), float(number)
    except ValueError:
        raise InvalidInput(
            "--deadband", f"{text!r} is neither a number such as 0.5 nor a percentage such as 2%"
        ) from None


def _pem(option: str, file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        with file.open("rb") as stream:
            read = stream.read(MOST_PEM_CHARACTERS + 1)
    except OSError as exc:
        raise InvalidInput(option, f"cannot read {file}: {exc.strerror}") from exc
    try:
        return read.decode("ascii")
    except UnicodeDecodeError:
        kind = "x509" if "certificate" in option else "pkey"
        raise InvalidInput(
            option,
            f"{file} is not PEM; make it so: openssl {kind} -inform DER -in {file} -out {file.stem}.pem",
        ) from None
