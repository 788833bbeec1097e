"""The embedded server and the real one are given the same random commands, and must not differ in anything."""

from __future__ import annotations

import os
from collections.abc import Callable

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from testing.side_by_side import Pair, SideBySide

MAX_JOB_SIZE = 40
TUBES = ("default", "a", "b", "c-d")
# No moment that anything is due in comes while the test runs.
LONG = (1000, 2000, 2**32 - 1)

tubes = st.sampled_from(TUBES)
priorities = st.sampled_from((0, 1, 1023, 1024, 2**31, 2**32 - 1))
delays = st.sampled_from((0, 0, 0, *LONG))
ttrs = st.sampled_from(LONG)
bodies = st.binary(max_size=MAX_JOB_SIZE)

BARE = (
    "reserve",
    "peek-ready",
    "peek-delayed",
    "peek-buried",
    "stats",
    "list-tubes",
    "list-tube-used",
    "list-tubes-watched",
)
# Not well-formed, or only just. What has no line break of its own gets one.
ODD = (
    *("", " ", "foo", "Put", "put", "put 1 2 3", "put a 0 1000 1", "put 4294967296 0 1000 1", "put -1 0 1000 1"),
    *("put 0 4294967296 1000 1", "put 0 0 1000 1 x", "put 0 0 1000 1.5", "put 0 0 1000 4294967296"),
    *(
        "delete",
        "delete ",
        "delete x",
        "delete -1",
        "delete 1 ",
        "delete  1",
        "delete 0",
        "delete 18446744073709551616",
    ),
    *("peek", "peek x", "peek 0", "peek 18446744073709551615", "peek-ready ", "peek-delayedx", "peek-buried 1"),
    *("reserve ", "reservex", "reserve-with-timeout", "reserve-with-timeout 0 x", "reserve-with-timeout  0"),
    *("reserve-with-timeout 99999999999999999999", "reserve-job", "reserve-job x", "reserve-job 0"),
    *("release 1", "release 1 0", "release 1 0 x", "release 1 4294967296 0", "release 1 0 0 0", "bury 1", "bury 1 x"),
    *("bury 1 0 0", "touch", "touch x", "touch 0", "kick", "kick ", "kick x", "kick -1", "kick 2x", "kick 4294967296"),
    *("kick 18446744073709551616", "kick +1", "kick-job", "kick-job x", "kick-job 0", "use", "use ", "use -a"),
    *("use a b", "use a\t", "use " + "u" * 200, "use " + "u" * 201, "use ä", "watch", "watch -a", "watch ?"),
    *(
        "watch " + "w" * 200,
        "watch " + "w" * 201,
        "ignore",
        "ignore -a",
        "ignore nobody",
        "statsx",
        "stats ",
        "stats-job",
    ),
    *(
        "stats-job x",
        "stats-job 0",
        "stats-tube",
        "stats-tube nobody",
        "stats-tube -a",
        "list-tubesx",
        "list-tube-usedx",
    ),
    *("list-tubes-watched ", "list", "pause-tube", "pause-tube a", "pause-tube a5", "pause-tubea 0", "pause-tube -a 5"),
    *("pause-tube nobody 5", "pause-tube a 0x", "pause-tube a 4294967296", "pause-tube " + "p" * 201 + " 5", "x" * 222),
    *("x" * 223, "x" * 224, "x" * 230, "y" * 500, "peek 1\0", "\0", "quit", "quitx"),
)

JOB_COMMANDS = (
    *("reserve-job {id}", "delete {id}", "release {id} {priority} {delay}", "release {id} {priority} {delay}"),
    *("bury {id} {priority}", "bury {id} {priority}", "touch {id}", "peek {id}", "stats-job {id}", "kick-job {id}"),
)

puts = st.builds(
    lambda priority, delay, ttr, body: b"put %d %d %d %d\r\n%b\r\n" % (priority, delay, ttr, len(body), body),
    *(priorities, delays, ttrs, bodies),
)


class Differential(RuleBasedStateMachine):
    """Up to five connections that say what they like."""

    steps = 0
    replies = 0

    def __init__(self) -> None:
        super().__init__()
        self.servers = SideBySide(max_job_size=MAX_JOB_SIZE)
        self.servers.__enter__()

    def teardown(self) -> None:
        type(self).replies += self.servers.compared
        self.servers.__exit__()

    @initialize()
    def start(self) -> None:
        self.servers.open()
        self.servers.open()

    def say(self, data: st.DataObject, *commands: bytes, then_end: bool = False) -> None:
        """Send commands, each of which has one reply, on one of the connections in one piece.

        In which order the commands of two connections are carried out that have both sent several is nothing that a
        server promises: only one at a time has some piled up, and then the others send one by one.
        """
        self.say_on(data.draw(st.sampled_from(self.servers.pairs), "connection"), *commands, then_end=then_end)

    def say_on(self, pair: Pair, *commands: bytes, then_end: bool = False) -> None:
        type(self).steps += 1
        piled = next((pair for pair in self.servers.pairs if pair.unanswered > 1), None)
        if piled not in (None, pair):
            if pair.unanswered or then_end:
                pair = piled
            else:
                commands = commands[:1]
        if then_end:
            for peer in pair.peers:
                peer.send(b"".join(commands))
            self.servers.finish(pair)
        else:
            self.servers.say(pair, *commands)

    @precondition(lambda self: len(self.servers.pairs) < 5)
    @rule()
    def open(self) -> None:
        self.servers.open()

    @precondition(lambda self: self.servers.pairs)
    @rule(data=st.data())
    def half_close(self, data: st.DataObject) -> None:
        self.servers.finish(data.draw(st.sampled_from(self.servers.pairs)))

    @precondition(lambda self: any(pair.unanswered <= 1 for pair in self.servers.pairs))
    @rule(data=st.data())
    def hang_up(self, data: st.DataObject) -> None:
        self.servers.hang_up(data.draw(st.sampled_from([pair for pair in self.servers.pairs if pair.unanswered <= 1])))

    @precondition(lambda self: self.servers.pairs)
    @rule(data=st.data(), count=st.integers(1, 4))
    def put(self, data: st.DataObject, count: int) -> None:
        self.say(data, *(data.draw(puts) for _ in range(count)))

    @precondition(lambda self: self.servers.pairs)
    @rule(data=st.data(), body=bodies, wrong=st.sampled_from((b"\r", b"", b"xx", b"\n\r")))
    def put_the_wrong_size(self, data: st.DataObject, body: bytes, wrong: bytes) -> None:
        self.say(data, b"put 0 0 1000 %d\r\n" % len(body), body, wrong, b"\r\n", b"list-tube-used\r\n", then_end=True)

    @precondition(lambda self: self.servers.pairs)
    @rule(data=st.data(), size=st.integers(MAX_JOB_SIZE + 1, 3000))
    def put_too_much(self, data: st.DataObject, size: int) -> None:
        self.say(data, b"put 0 0 1000 %d\r\n" % size + b"\r" * size + b"\r\n")

    @precondition(lambda self: self.servers.pairs)
    @rule(data=st.data(), name=st.sampled_from(("use", "watch", "watch", "ignore")), tube=tubes)
    def tube(self, data: st.DataObject, name: str, tube: str) -> None:
        self.say(data, f"{name} {tube}\r\n".encode())

    @precondition(lambda self: self.servers.pairs)
    @rule(data=st.data(), timeout=st.sampled_from((0, 0, 1000, None)))
    def reserve(self, data: st.DataObject, timeout: int | None) -> None:
        command = "reserve" if timeout is None else f"reserve-with-timeout {timeout}"
        self.say(data, f"{command}\r\n".encode())

    @precondition(lambda self: self.servers.pairs)
    @rule(data=st.data(), command=st.sampled_from(JOB_COMMANDS), priority=priorities, delay=delays)
    def job(self, data: st.DataObject, command: str, priority: int, delay: int) -> None:
        job_id = data.draw(st.sampled_from([*self.servers.job_ids, 10**6]), "job")
        self.say(data, (command.format(id=job_id, priority=priority, delay=delay) + "\r\n").encode())

    @precondition(lambda self: any(pair.reserved for pair in self.servers.pairs))
    @rule(data=st.data(), command=st.sampled_from(JOB_COMMANDS), priority=priorities, delay=delays)
    def own_job(self, data: st.DataObject, command: str, priority: int, delay: int) -> None:
        pair = data.draw(st.sampled_from([pair for pair in self.servers.pairs if pair.reserved]), "connection")
        job_id = data.draw(st.sampled_from(pair.reserved), "job")
        self.say_on(pair, (command.format(id=job_id, priority=priority, delay=delay) + "\r\n").encode())

    @precondition(lambda self: self.servers.pairs)
    @rule(data=st.data(), priority=priorities, body=bodies)
    def put_and_reserve(self, data: st.DataObject, priority: int, body: bytes) -> None:
        self.say(data, b"put %d 0 1000 %d\r\n%b\r\n" % (priority, len(body), body), b"reserve-with-timeout 0\r\n")

    @precondition(lambda self: self.servers.pairs)
    @rule(data=st.data(), bound=st.integers(0, 5))
    def kick(self, data: st.DataObject, bound: int) -> None:
        self.say(data, b"kick %d\r\n" % bound)

    @precondition(lambda self: self.servers.pairs)
    @rule(data=st.data(), tube=tubes, seconds=st.sampled_from((0, 0, 1000)))
    def pause(self, data: st.DataObject, tube: str, seconds: int) -> None:
        self.say(data, f"pause-tube {tube} {seconds}\r\n".encode())

    @precondition(lambda self: self.servers.pairs)
    @rule(data=st.data(), commands=st.lists(st.sampled_from(BARE), min_size=1, max_size=4))
    def ask(self, data: st.DataObject, commands: list[str]) -> None:
        self.say(data, *(f"{command}\r\n".encode() for command in commands))

    @precondition(lambda self: self.servers.pairs)
    @rule(data=st.data(), line=st.sampled_from(ODD))
    def say_something_odd(self, data: st.DataObject, line: str) -> None:
        self.say(data, line.encode() + b"\r\n")

    @precondition(lambda self: self.servers.pairs)
    @rule(data=st.data(), noise=st.binary(max_size=300))
    def make_noise(self, data: st.DataObject, noise: bytes) -> None:
        self.say(data, noise, then_end=True)


def test_the_embedded_server_and_the_real_one_say_the_same(record_property: Callable[[str, object], None]) -> None:
    """BEANPOOL_DIFFERENTIAL_EXAMPLES asks for more, and then for others each time."""
    examples = int(os.environ.get("BEANPOOL_DIFFERENTIAL_EXAMPLES", "0"))
    Differential.steps = Differential.replies = 0
    run_state_machine_as_test(
        Differential,
        settings=settings(
            max_examples=examples or 50,
            stateful_step_count=50,
            deadline=None,
            database=None,
            # Every attempt to make a failure smaller costs a real server; that is for the longer runs.
            phases=[Phase.generate, *([Phase.shrink] if examples else [])],
            derandomize=not examples,
            suppress_health_check=list(HealthCheck),
        ),
    )
    record_property("steps", Differential.steps)
    record_property("replies", Differential.replies)
    print(f"{Differential.steps} steps, {Differential.replies} replies compared")
    assert Differential.replies > 500
