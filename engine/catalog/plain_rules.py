"""What a text, a choice, a number or a PEM text must look like, whatever it is for. Pure.

Every refusal names the field and shows the value; `check_pem` shows nothing of what may be a secret.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Literal

from engine.errors import InvalidInput

# A chain of several certificates of 4096 bits has some 10 KiB.
MOST_PEM_CHARACTERS = 65_536
# Also lone surrogates, which no UTF-8 text can hold.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\s+([A-Za-z0-9+/=\s]+)-----END \1-----")


def shown(value: object) -> str:
    """Return the value for a message: quoted, and cut where it is too long to read."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:80]}…{text[-1]}"


def check_text(field: str, text: str, *, most: int, lines: bool = False) -> None:
    """Refuse a text that is empty, longer than `most` characters, or holds control characters.

    `lines` allows line breaks and tabs.
    """
    if not text.strip():
        raise InvalidInput(field, f"{shown(text)} is empty")
    if len(text) > most:
        raise InvalidInput(field, f"{shown(text)} has {len(text)} characters; at most {most} fit")
    if _CONTROL.search(re.sub(r"[\n\r\t]", "", text) if lines else text):
        raise InvalidInput(field, f"{shown(text)} holds characters that cannot be printed")


def check_choice(field: str, value: str, choices: Sequence[str]) -> None:
    """Refuse what is not one of a few words."""
    if value not in choices:
        raise InvalidInput(field, f"{shown(value)} is not one of {', '.join(choices)}")


def check_between(field: str, number: float, least: float, most: float) -> None:
    """Refuse a number outside of least..most, and NaN."""
    if not least <= number <= most:
        raise InvalidInput(field, f"{number} is not between {least} and {most}")


def check_pem(field: str, text: str, kind: Literal["CERTIFICATE", "PRIVATE KEY"]) -> None:
    """Refuse what cannot be a PEM text (RFC 7468) of this kind; whether it is a good one shows when it is used."""
    if len(text) > MOST_PEM_CHARACTERS:
        raise InvalidInput(field, f"has {len(text)} characters; at most {MOST_PEM_CHARACTERS} fit")
    found = _PEM.search(text) if text.isascii() and "\0" not in text else None
    if found is None:
        raise InvalidInput(
            field, f"is not PEM: it has no lines -----BEGIN {kind}----- to -----END {kind}-----"
        )
    label = found[1]
    if label == "ENCRYPTED PRIVATE KEY" or "ENCRYPTED" in text:
        raise InvalidInput(
            field,
            "is locked with a passphrase, which nobody could type in here: give it without one; it is kept sealed",
        )
    # A key may say what kind it is: RSA PRIVATE KEY.
    if label != kind and not (kind == "PRIVATE KEY" and label.endswith(" PRIVATE KEY")):
        raise InvalidInput(field, f"is a {label}, and not a {kind}")
    try:
        base64.b64decode("".join(found[2].split()), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput(
            field, "is not PEM: what is between its first and last line is not base64"
        ) from None
