"""How the servers of a cluster share in what one call may take."""

from __future__ import annotations


def shares(limit: int, servers: int) -> list[int]:
    """Divide `limit` among so many servers: whole numbers that add up to it, the larger ones first, by one at most.

    With fewer jobs than servers the last ones get 0. None for no servers.
    """
    if servers <= 0:
        return []
    least, more = divmod(limit, servers)
    return [least + 1] * more + [least] * (servers - more)
