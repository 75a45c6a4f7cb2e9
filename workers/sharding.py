"""Which shard a tenant belongs to: rendezvous hashing, so that a change of N moves only the tenants it must.

Thaler and Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM ToN 6(1), 1998.
"""

from __future__ import annotations

from hashlib import blake2b


def shard_of(slug: str, shards: int) -> int:
    """Return the shard in [0, shards) whose weight for this tenant is the highest."""
    return max(range(shards), key=lambda shard: blake2b(f"{slug}/{shard}".encode(), digest_size=8).digest())
