"""One look at the servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.pools import unprobed

from beanpool import Connection
from beanpool.cli.look import look

if TYPE_CHECKING:
    from conftest import StartCluster


def test_it_adds_up_tubes_and_leaves_out_itself(cluster: StartCluster) -> None:
    servers = cluster(2)
    for server in servers:
        server.control.put(b"x", "mail")
    with Connection.from_url(servers[0].url) as worker, unprobed(*servers) as pool:
        worker.watch("mail")
        # Each connection watches "default": those of others, and the one that asks.
        before = sum(server.control.counter("current-watching", "default") for server in servers)
        seen = look(pool)
        assert seen.sum("current-watching", "default") == before
        assert (seen.sum("current-jobs-ready", "mail"), seen.sum("current-watching", "mail")) == (2, 1)
        assert set(seen.ages) == {"mail"}
        assert set(look(pool, "ma*").tubes) == {"mail"}
        servers[1].kill()
        assert set(look(pool).errors) == {servers[1].address}
