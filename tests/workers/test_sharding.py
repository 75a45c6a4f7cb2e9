"""Which shard a tenant belongs to."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from workers.sharding import shard_of

SLUGS = [f"tenant-{number}" for number in range(3_000)]


@given(slug=st.text(min_size=1, max_size=63), shards=st.integers(1, 64))
def test_every_tenant_has_a_shard_and_keeps_it(slug: str, shards: int) -> None:
    assert 0 <= shard_of(slug, shards) < shards
    assert shard_of(slug, shards) == shard_of(slug, shards)


def test_tenants_spread_evenly() -> None:
    sizes = Counter(shard_of(slug, 6) for slug in SLUGS)
    assert len(sizes) == 6
    assert max(sizes.values()) < 1.2 * min(sizes.values())


def test_one_more_shard_takes_its_share_and_moves_nothing_between_the_others() -> None:
    before = {slug: shard_of(slug, 6) for slug in SLUGS}
    after = {slug: shard_of(slug, 7) for slug in SLUGS}
    moved = [slug for slug in SLUGS if before[slug] != after[slug]]
    assert {after[slug] for slug in moved} == {6}
    assert len(SLUGS) / 7 * 0.8 < len(moved) < len(SLUGS) / 7 * 1.2
