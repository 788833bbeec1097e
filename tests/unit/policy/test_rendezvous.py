"""Keys to servers: the same everywhere, the least movement, fair shares; and the turns of puts without a key."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from beanpool.policy.rendezvous import Rendezvous
from beanpool.policy.round_robin import MAX_TURNS, weighted_round_robin

Members = list[tuple[str, float]]

NAMES = [f"q{number}:11300" for number in range(1, 6)]
WEIGHTED: Members = [("q1:11300", 1), ("q2:11300", 2), ("[::1]:11301", 4), ("unix:/run/b.sock", 0), ("größe", 0.5)]

# Programs of any version of beanpool share clusters: an edit here is a new algorithm, and moves their users' keys.
GOLDEN: list[tuple[str | bytes, str, list[str]]] = [
    ("", "31524", ["[::1]:11301", "q1:11300", "q2:11300", "größe"]),
    ("0", "15234", ["[::1]:11301", "q1:11300", "q2:11300", "größe"]),
    ("user:1", "12534", ["[::1]:11301", "q1:11300", "q2:11300", "größe"]),
    ("user:2", "12354", ["[::1]:11301", "q2:11300", "q1:11300", "größe"]),
    ("user:3", "52314", ["q2:11300", "[::1]:11301", "q1:11300", "größe"]),
    ("größe", "21453", ["q2:11300", "[::1]:11301", "q1:11300", "größe"]),
    (b"\x00\xff", "42135", ["[::1]:11301", "q2:11300", "q1:11300", "größe"]),
]
GOLDEN_DIGEST = "55b84d766484562877fa94db4b573852b10f7eec66225403c633cbf4f4de8790"
DIGEST_PROGRAM = """
import hashlib
from beanpool.policy.rendezvous import Rendezvous

rendezvous = Rendezvous((f"10.0.0.{number}:11300", 1 + number % 3) for number in range(50))
orders = "\\n".join(",".join(rendezvous.order(f"key-{number}")) for number in range(300))
print(hashlib.sha256(orders.encode()).hexdigest())
"""

names = st.lists(st.text(min_size=1, max_size=8).filter(str.isprintable), min_size=1, max_size=8, unique=True)
keys = st.text(max_size=12) | st.binary(max_size=12)
positive = st.sampled_from([0.25, 1, 2, 3.5, 40]) | st.floats(0.01, 100)
members = names.flatmap(lambda chosen: st.tuples(*(st.tuples(st.just(name), positive) for name in chosen))).map(list)
several = members.filter(lambda chosen: len(chosen) > 1)


def equal(count: int) -> Rendezvous:
    """A ring of `count` servers with equal weights."""
    return Rendezvous((f"10.1.0.{number}:11300", 1) for number in range(count))


def shares(rendezvous: Rendezvous, count: int) -> Counter[str]:
    """How many of `count` keys each server gets."""
    return Counter(rendezvous.owner(f"user:{number}") for number in range(count))


@pytest.mark.parametrize(("key", "equal_order", "weighted_order"), GOLDEN)
def test_golden_placement(key: str | bytes, equal_order: str, weighted_order: list[str]) -> None:
    assert Rendezvous((name, 1) for name in NAMES).order(key) == tuple(f"q{number}:11300" for number in equal_order)
    assert Rendezvous(WEIGHTED).order(key) == tuple(weighted_order)


@pytest.mark.parametrize("hash_seed", ["0", "1", "4294967295"])
def test_another_process_places_the_same(hash_seed: str) -> None:
    child = subprocess.run(
        [sys.executable, "-c", DIGEST_PROGRAM],
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert child.stdout.strip() == GOLDEN_DIGEST


def test_the_definition() -> None:
    """What the lanes of one big integer compute is what one multiplication for each server computes."""

    def number(data: bytes, person: bytes = b"") -> int:
        return int.from_bytes(hashlib.blake2b(data, digest_size=8, person=person).digest(), "little")

    def draw(name: str, key: str) -> int:
        product = (number(name.encode(), b"beanpool") | 1) * number(key.encode())
        return (product ^ product >> 64) % 2**64

    servers = [f"server {number}" for number in range(23)]
    rendezvous = Rendezvous((name, 3) for name in servers)
    for key in map(str, range(200)):
        expected = sorted(servers, key=lambda name: draw(name, key), reverse=True)
        assert rendezvous.order(key) == tuple(expected)


def test_text_is_hashed_as_utf_8() -> None:
    rendezvous = equal(20)
    assert all(rendezvous.order(key) == rendezvous.order(key.encode()) for key in map("größe {}".format, range(50)))


@given(members, keys)
def test_the_order_of_the_list_does_not_matter(chosen: Members, key: str | bytes) -> None:
    order = Rendezvous(chosen).order(key)
    assert Rendezvous(reversed(chosen)).order(key) == order
    assert Rendezvous(sorted(chosen)).order(key) == order
    assert sorted(order) == sorted(name for name, _ in chosen)


@given(members, keys)
def test_the_owner_is_the_first_of_the_order(chosen: Members, key: str | bytes) -> None:
    rendezvous = Rendezvous(chosen)
    assert rendezvous.owner(key) == rendezvous.order(key)[0] == rendezvous.order(key)[0]


@given(several, keys, st.data())
def test_without_a_server_the_others_keep_their_order(chosen: Members, key: str | bytes, data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(chosen))[0]
    rest = Rendezvous(member for member in chosen if member[0] != gone)
    assert rest.order(key) == tuple(name for name in Rendezvous(chosen).order(key) if name != gone)
    drained = Rendezvous((name, 0 if name == gone else weight) for name, weight in chosen)
    assert drained.order(key) == rest.order(key)


@given(several, st.data())
def test_only_keys_of_a_server_that_leaves_move(chosen: Members, data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(chosen))[0]
    before, after = Rendezvous(chosen), Rendezvous(member for member in chosen if member[0] != gone)
    for key in map(str, range(100)):
        owner = before.owner(key)
        assert after.owner(key) == (before.order(key)[1] if owner == gone else owner)


@given(members, st.text("new", min_size=4, max_size=6), positive)
def test_a_server_that_joins_only_attracts(chosen: Members, newcomer: str, weight: float) -> None:
    before = Rendezvous(member for member in chosen if member[0] != newcomer)
    after = Rendezvous([*(member for member in chosen if member[0] != newcomer), (newcomer, weight)])
    for key in map(str, range(100)):
        assert after.owner(key) in {newcomer, *([before.owner(key)] if before else [])}


@given(several, st.floats(1.01, 10), st.data())
@example([("a", 1), ("b", 1), ("c", 1)], 2.0, None)
def test_a_server_of_more_weight_only_attracts(chosen: Members, factor: float, data: st.DataObject | None) -> None:
    heavier = data.draw(st.sampled_from(chosen))[0] if data else "a"
    before = Rendezvous(chosen)
    after = Rendezvous((name, weight * factor if name == heavier else weight) for name, weight in chosen)
    for key in map(str, range(100)):
        assert after.owner(key) in {heavier, before.owner(key)}


@given(names, positive, keys)
def test_only_the_proportion_of_weights_matters(chosen: list[str], weight: float, key: str | bytes) -> None:
    scaled = Rendezvous((name, weight) for name in chosen)
    assert scaled.order(key) == Rendezvous((name, 1) for name in chosen).order(key)


def test_ten_servers_are_in_balance() -> None:
    counts = shares(equal(10), 60_000)
    assert len(counts) == 10
    assert max(counts.values()) / 6_000 <= 1.05


@pytest.mark.parametrize("count", [2, 3, 7, 40])
def test_shares_differ_by_chance_only(count: int) -> None:
    total = 30_000
    counts = shares(equal(count), total)
    expected = total / count
    chi_squared = sum((counts[f"10.1.0.{number}:11300"] - expected) ** 2 / expected for number in range(count))
    freedom = count - 1
    assert chi_squared < freedom + 4 * (2 * freedom) ** 0.5


def test_weights_are_honoured() -> None:
    weights = {f"q{number}": weight for number, weight in enumerate([1, 1, 2, 4, 0.5, 7.5, 0])}
    counts = shares(Rendezvous(weights.items()), 60_000)
    assert "q6" not in counts
    for name, weight in weights.items():
        if weight:
            expected = 60_000 * weight / 16
            assert abs(counts[name] - expected) < 4 * expected**0.5


def test_keys_of_a_lost_server_are_spread_evenly() -> None:
    rendezvous = equal(10)
    orders = [rendezvous.order(f"user:{number}") for number in range(60_000)]
    heirs = Counter(order[1] for order in orders if order[0] == "10.1.0.4:11300")
    assert len(heirs) == 9
    mean = heirs.total() / 9
    assert max(heirs.values()) / mean < 1.2
    assert min(heirs.values()) / mean > 0.8


def test_keys_of_a_lost_server_go_by_weight() -> None:
    rendezvous = Rendezvous([("lost", 3), ("light", 1), ("heavy", 4)])
    orders = [rendezvous.order(f"user:{number}") for number in range(30_000)]
    heirs = Counter(order[1] for order in orders if order[0] == "lost")
    assert heirs["heavy"] / heirs["light"] == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("members", [[], [("q1", 0)], [("q1", 0), ("q2", 0.0)]])
def test_a_ring_without_weight(members: Members) -> None:
    rendezvous = Rendezvous(members)
    assert len(rendezvous) == 0
    assert rendezvous.order("key") == ()
    with pytest.raises(LookupError, match="weight above 0"):
        rendezvous.owner("key")


def test_its_length_is_the_number_of_servers_that_get_keys() -> None:
    assert len(Rendezvous(WEIGHTED)) == 4


@pytest.mark.parametrize("extreme", [5e-324, 1e-300, 1e300, sys.float_info.max])
def test_extreme_weights(extreme: float) -> None:
    rendezvous = Rendezvous([("a", extreme), ("b", 1), ("c", 2)])
    for key in map(str, range(50)):
        order = rendezvous.order(key)
        assert sorted(order) == ["a", "b", "c"]
        assert order[0 if extreme > 1 else -1] == "a"
        assert rendezvous.owner(key) == order[0]


@pytest.mark.parametrize("key", [None, 5, 1.5, bytearray(b"a"), memoryview(b"a"), ("a",)])
def test_keys_of_other_types_are_refused(key: object) -> None:
    rendezvous = equal(3)
    for look_up in (rendezvous.owner, rendezvous.order):
        with pytest.raises(TypeError, match="key must be str or bytes"):
            look_up(key)  # type: ignore[arg-type]  # the wrong type is the point


def test_a_key_that_is_no_unicode_text_is_refused() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        equal(3).owner("\ud800")


@pytest.mark.parametrize("weight", [-1, -0.5, float("nan"), float("inf")])
def test_impossible_weights_are_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="finite number of at least 0"):
        Rendezvous([("q1", weight)])
    with pytest.raises(ValueError, match="finite number of at least 0"):
        weighted_round_robin([1, weight])


def test_two_servers_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="'q1'"):
        Rendezvous([("q1", 1), ("q2", 1), ("q1", 2)])


def gaps(turns: Sequence[int], index: int) -> list[Sequence[int]]:
    """What comes between each turn of `index` and its next one, all the way round."""
    places = [place for place, turn in enumerate(turns) if turn == index]
    doubled = [*turns, *turns]
    following = [*places[1:], places[0] + len(turns)]
    return [doubled[place + 1 : after] for place, after in zip(places, following, strict=True)]


@pytest.mark.parametrize(
    ("weights", "turns"),
    [
        ([], ()),
        ([0, 0], ()),
        ([7], (0,)),
        ([1, 1, 1], (0, 1, 2)),
        ([0.1, 0.1], (0, 1)),
        ([1, 0, 1], (0, 2)),
        ([1, 2, 4], (0, 2, 1, 2, 2, 1, 2)),
        ([5, 1, 1], (0, 0, 0, 1, 0, 0, 2)),
        ([0.1, 0.2, 0.3], (0, 1, 2, 2, 1, 2)),
        ([1.5, 1, 0.5], (0, 1, 0, 0, 1, 2)),
    ],
)
def test_turns(weights: list[float], turns: tuple[int, ...]) -> None:
    assert weighted_round_robin(weights) == turns


@given(st.lists(st.integers(0, 20), min_size=1, max_size=12))
def test_small_whole_weights_are_exact_and_evenly_spaced(weights: list[int]) -> None:
    turns = weighted_round_robin(weights)
    counts = Counter(turns)
    total = sum(weights)
    assert all(counts[index] * total == weight * len(turns) for index, weight in enumerate(weights))
    assert len(turns) <= total
    for index, count in counts.items():
        for gap in gaps(turns, index):
            between = Counter(gap)
            for other in counts.keys() - {index}:
                assert counts[other] // count <= between[other] <= -(-counts[other] // count)


@given(st.lists(st.floats(0, 1e308), max_size=30))
def test_any_weights_give_about_their_shares(weights: list[float]) -> None:
    turns = weighted_round_robin(weights)
    assert len(turns) <= MAX_TURNS
    assert set(turns) == {index for index, weight in enumerate(weights) if weight}
    counts = Counter(turns)
    heaviest = max(weights, default=0)
    relative = [weight / heaviest if weight else 0 for weight in weights]
    for index, count in counts.items():
        assert count / len(turns) == pytest.approx(relative[index] / sum(relative), abs=0.01)


def test_more_servers_than_turns() -> None:
    assert len(weighted_round_robin([1.0] * MAX_TURNS)) == MAX_TURNS
    with pytest.raises(ValueError, match="at most 4096"):
        weighted_round_robin([1.0] * (MAX_TURNS + 1))
