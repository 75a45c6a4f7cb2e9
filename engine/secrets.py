"""Seals the secrets that a database holds (a connection's password, a tenant's DSN) and opens them again.

Owns the sealed format. Does not know where the key comes from (settings.secrets_key) nor where the text is kept.

Envelope encryption with AES-256-GCM (NIST SP 800-38D): every secret has a random data key of its own, and only that is
encrypted by the key-encryption key, so a change of key rewrites 60 bytes a secret and never sees one in the clear.
The tenant's id is associated data of both parts: a sealed text that is copied to another tenant does not open.

    "v1." + base64url(wrapped) + "." + base64url(payload)          no padding
    wrapped  = nonce (12 bytes) + encrypted data key (32) + tag (16)
    payload  = nonce (12 bytes) + encrypted UTF-8 text + tag (16)

The secret itself and the keys appear in no message, and causes that could quote them are cut off.
"""

from __future__ import annotations

import base64
import binascii
import os
from typing import TYPE_CHECKING
from uuid import UUID

from engine.errors import ConfigurationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_VERSION = "v1"
_KEY_BYTES = 32
_NONCE_BYTES = 12


def seal(plain: str, *, key: str, tenant_id: UUID) -> str:
    """Return the sealed text of a secret.

    `key` is the key-encryption key, 32 bytes in base64. Raises ConfigurationError when it is missing or not that.
    """
    wrapping = _cipher(_decoded_key(key))
    data_key = os.urandom(_KEY_BYTES)
    bound_to = tenant_id.bytes
    wrapped = _encrypt(wrapping, data_key, bound_to)
    payload = _encrypt(_cipher(data_key), plain.encode(), bound_to)
    return ".".join((_VERSION, _text(wrapped), _text(payload)))


def unseal(sealed: str, *, key: str, tenant_id: UUID) -> str:
    """Return the secret that `seal` was given.

    Raises ConfigurationError when the key is missing or another one, when the text was sealed for another tenant, or
    when it was changed.
    """
    version, _, rest = sealed.partition(".")
    if version != _VERSION:
        raise ConfigurationError("a sealed secret is not of a version that this engine knows (v1)")
    wrapping = _cipher(_decoded_key(key))
    wrapped, _, payload = rest.partition(".")
    bound_to = tenant_id.bytes
    data_key = _decrypt(wrapping, _bytes(wrapped), bound_to, tenant_id)
    return _decrypt(_cipher(data_key), _bytes(payload), bound_to, tenant_id).decode()


def _cipher(key: bytes) -> AESGCM:
    # Imported here: a worker without a secret does not carry the library in its memory.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

    return AESGCM(key)


def _encrypt(cipher: AESGCM, plain: bytes, bound_to: bytes) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, plain, bound_to)


def _decrypt(cipher: AESGCM, sealed: bytes, bound_to: bytes, tenant_id: UUID) -> bytes:
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415  (see _cipher)

    try:
        return cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], bound_to)
    except (InvalidTag, ValueError):
        raise ConfigurationError(
            f"secrets_key does not open a secret of tenant {tenant_id}: it is another key than the one that sealed it, "
            "or the sealed text was changed or belongs to another tenant"
        ) from None


def _decoded_key(key: str) -> bytes:
    if not key:
        raise ConfigurationError("secrets_key is not set, and a secret has to be sealed or opened with it")
    try:
        decoded = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        raise ConfigurationError("secrets_key is not base64") from None
    if len(decoded) != _KEY_BYTES:
        raise ConfigurationError(
            f"secrets_key has {len(decoded)} bytes; it must have {_KEY_BYTES} (in base64)"
        )
    return decoded


def _text(sealed: bytes) -> str:
    return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    """Undo `_text`; anything that is no base64 becomes empty, which then fails its tag."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return b""
