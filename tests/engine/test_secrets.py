"""Secrets in the databases: sealed and opened only with the right key and for the right tenant."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import secrets
from engine.errors import ConfigurationError

KEY = base64.b64encode(bytes(range(32))).decode()
TENANT = UUID(int=1)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_sealed_secret_opens_to_the_same_text(plain: str) -> None:
    assert secrets.unseal(secrets.seal(plain, key=KEY, tenant_id=TENANT), key=KEY, tenant_id=TENANT) == plain


def test_the_same_secret_is_sealed_differently_each_time() -> None:
    assert secrets.seal("x", key=KEY, tenant_id=TENANT) != secrets.seal("x", key=KEY, tenant_id=TENANT)


def test_the_layout_is_version_wrapped_key_payload() -> None:
    version, wrapped, payload = secrets.seal("abc", key=KEY, tenant_id=TENANT).split(".")
    assert version == "v1"
    assert len(base64.urlsafe_b64decode(wrapped + "==")) == 12 + 32 + 16
    assert len(base64.urlsafe_b64decode(payload + "==")) == 12 + 3 + 16


def test_another_key_does_not_open_it_and_the_message_names_the_setting() -> None:
    sealed = secrets.seal("hunter2", key=KEY, tenant_id=TENANT)
    other = base64.b64encode(os.urandom(32)).decode()
    with pytest.raises(ConfigurationError, match="secrets_key") as raised:
        secrets.unseal(sealed, key=other, tenant_id=TENANT)
    assert "hunter2" not in str(raised.value)
    assert other not in str(raised.value)


def test_a_secret_of_another_tenant_does_not_open() -> None:
    sealed = secrets.seal("hunter2", key=KEY, tenant_id=TENANT)
    with pytest.raises(ConfigurationError, match="another tenant"):
        secrets.unseal(sealed, key=KEY, tenant_id=uuid4())


def test_a_secret_with_any_character_changed_does_not_open() -> None:
    sealed = secrets.seal("hunter2", key=KEY, tenant_id=TENANT)
    for place in range(len(sealed)):
        # Flipping the case or digit changes bits that count, except in the unused low bits at the end of a part.
        changed = sealed[:place] + ("A" if sealed[place] != "A" else "B") + sealed[place + 1 :]
        try:
            opened = secrets.unseal(changed, key=KEY, tenant_id=TENANT)
        except ConfigurationError:
            continue
        assert opened == "hunter2"
        assert secrets._bytes(changed.split(".")[2]) == secrets._bytes(sealed.split(".")[2])


@pytest.mark.parametrize("sealed", ["", "v1", "v1.", "v1..", "v2.a.b", "v1.a.b", "v1.****.****", "hunter2"])
def test_a_text_that_was_never_sealed_is_refused(sealed: str) -> None:
    with pytest.raises(ConfigurationError):
        secrets.unseal(sealed, key=KEY, tenant_id=TENANT)


@pytest.mark.parametrize(
    ("key", "said"),
    [("", "not set"), ("not base64!", "not base64"), (base64.b64encode(b"short").decode(), "5 bytes")],
)
def test_a_missing_or_wrong_key_is_named(key: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=f"secrets_key.*{said}") as raised:
        secrets.seal("hunter2", key=key, tenant_id=TENANT)
    assert "hunter2" not in str(raised.value)


def test_the_cryptography_library_is_loaded_only_for_a_secret() -> None:
    code = "import sys, engine.secrets, engine.catalog; sys.exit('cryptography' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
