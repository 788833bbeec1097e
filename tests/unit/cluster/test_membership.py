"""What becomes of the members of a cluster when other servers are named."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from beanpool.cluster.membership import plan_change
from beanpool.config import Server


@dataclasses.dataclass(frozen=True)
class Known:
    server: Server
    leaving: bool = False


def known(*servers: Server) -> list[Known]:
    return [Known(server) for server in servers]


def test_a_server_is_the_same_by_its_name_and_its_address() -> None:
    a, b = known(Server("a", weight=1), Server("b", name="second"))
    same, moved, new = Server("a", weight=3), Server("c", name="second"), Server("d")
    change = plan_change([a, b], [moved, same, new], drain=True)
    assert change.staying == ((None, moved), (a, same), (None, new))
    assert (change.leaving, change.removed) == ((b,), ())


def test_an_address_under_another_name_goes_at_once() -> None:
    [before] = known(Server("a", name="one"))
    change = plan_change([before], [Server("a", name="two")], drain=True)
    assert (change.leaving, change.removed) == ((), (before,))


def test_without_drain_all_that_are_left_out_go_at_once() -> None:
    a, b = known(Server("a"), Server("b"))
    leaving = Known(Server("c"), leaving=True)
    change = plan_change([a, b, leaving], [Server("b")], drain=False)
    assert change.staying == ((b, Server("b")),)
    assert (change.leaving, change.removed) == ((), (a, leaving))


def test_what_is_named_again_is_no_change() -> None:
    a, b = known(Server("a"), Server("b", weight=2))
    leaving = Known(Server("c"), leaving=True)

    def changes(members: list[Known], *named: Server, drain: bool = True) -> bool:
        return not plan_change(members, named, drain=drain).is_none(members)

    assert not changes([a, b], a.server, Server("b", weight=2.0))
    assert not changes([a, b, leaving], a.server, b.server)
    assert changes([a, b], b.server, a.server)
    assert changes([a, b], a.server)
    assert changes([a, b], a.server, Server("b"))
    assert changes([a, b], a.server, b.server, Server("d"))
    assert changes([a, b, leaving], a.server, b.server, leaving.server)
    assert changes([a, b, leaving], a.server, b.server, drain=False)


hosts = st.sampled_from("abcde")
servers = st.builds(Server, hosts, name=st.none() | st.sampled_from(["n1", "n2", "n3"]))
clusters = st.lists(servers, unique_by=(lambda server: server.key, lambda server: str(server.address)), max_size=5)


@given(clusters, clusters, st.booleans())
def test_every_member_has_one_fate_and_every_name_one_server(
    before: list[Server], named: list[Server], drain: bool
) -> None:
    members = known(*before)
    change = plan_change(members, named, drain=drain)
    assert [server for _, server in change.staying] == named
    kept = [member for member, _ in change.staying if member is not None]
    fates = [*kept, *change.leaving, *change.removed]
    assert sorted(map(id, fates)) == sorted(map(id, members))
    assert {str(m.server.address) for m in change.leaving}.isdisjoint(str(server.address) for server in named)
    assert drain or not change.leaving
