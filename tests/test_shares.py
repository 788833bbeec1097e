"""How a limit is divided among servers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from beanpool.shares import shares


@given(limit=st.integers(0, 10_000), servers=st.integers(1, 300))
def test_shares(limit: int, servers: int) -> None:
    parts = shares(limit, servers)
    assert (len(parts), sum(parts)) == (servers, limit)
    assert max(parts) - min(parts) <= 1
    assert parts == sorted(parts, reverse=True)
    assert shares(limit, 0) == []
