"""Small limits, so that segments are full after a few frames."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package", autouse=True)
def megabytes_are_kilobytes() -> Iterator[None]:
    """Let the settings' megabytes be kilobytes, the index as fine, and nobody wait for a full disk of the model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.journal.journal._MB", 1_024)
        patch.setattr("engine.journal.segment._INDEX_EACH_BYTES", 256)
        patch.setattr("engine.journal.journal._NO_ROOM_RETRY_S", 0.0)
        yield
