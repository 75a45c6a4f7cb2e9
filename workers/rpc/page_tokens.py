"""Page tokens of lists whose place is a few whole numbers: gaps and the quarantine. (Readings have their own cursor.)

A token is a checksum of the request that it belongs to, and the numbers. It is no secret and gives no right: whoever
makes one up gets what they may have anyway, so the numbers are checked as anybody's would be.
"""

from __future__ import annotations

import re
import zlib

from engine.errors import InvalidInput

_NUMBERS_MOST = 4
_TOKEN = re.compile(rf"([0-9a-f]{{8}})((?:\.-?[0-9]{{1,19}}){{1,{_NUMBERS_MOST}}})")
_INT64_LEAST, _INT64_MOST = -(2**63), 2**63 - 1


def token_of(request: str, *numbers: int) -> str:
    """Return the token for going on after this place; `request` is all that must be the same then."""
    return ".".join((_checksum(request), *map(str, numbers)))


def numbers_of(token: str, request: str, count: int) -> tuple[int, ...] | None:
    """Return the place, `count` numbers of 64 bits; None for an empty token. Raises InvalidInput for any other text."""
    if not token:
        return None
    found = _TOKEN.fullmatch(token)
    numbers = tuple(map(int, found[2][1:].split("."))) if found else ()
    if (
        found is None
        or len(numbers) != count
        or not all(_INT64_LEAST <= number <= _INT64_MOST for number in numbers)
    ):
        raise InvalidInput("page_token", f"{token[:80]!r} was not given by this server")
    if found[1] != _checksum(request):
        raise InvalidInput("page_token", "belongs to another request")
    return numbers


def _checksum(request: str) -> str:
    return f"{zlib.crc32(request.encode()):08x}"
