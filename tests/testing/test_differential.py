"""The embedded server and the real one are given the same random commands, and must not differ in anything."""

from __future__ import annotations

import os
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from testing.side_by_side import Pair, SideBySide

MAX_JOB_SIZE = 40
TUBES = ("default", "a", "b", "c-d")
# No moment that anything is due in comes while the test runs.
LONG = (1000, 2000, 2**32 - 1)

PRIORITIES = (0, 1, 1023, 1024, 2**31, 2**32 - 1)
DELAYS = (0, 0, 0, *LONG)
RESERVES = ("reserve", "reserve-with-timeout 0", "reserve-with-timeout 0", "reserve-with-timeout 1000")
JOB_COMMANDS = (
    *("reserve-job {id}", "delete {id}", "release {id} {priority} {delay}", "bury {id} {priority}", "touch {id}"),
    *("peek {id}", "stats-job {id}", "kick-job {id}"),
)
TUBE_COMMANDS = (
    *("use {tube}", "watch {tube}", "watch {tube}", "ignore {tube}", "kick {bound}", "kick {bound}"),
    *("pause-tube {tube} 0", "pause-tube {tube} 0", "pause-tube {tube} 1000", "stats-tube {tube}"),
)
QUESTIONS = (
    *("peek-ready", "peek-delayed", "peek-buried", "stats", "list-tubes", "list-tube-used", "list-tubes-watched"),
    "reserve",
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


def put(random: Random) -> bytes:
    """A put command with its body."""
    body = random.randbytes(random.randrange(MAX_JOB_SIZE + 1))
    numbers = (random.choice(PRIORITIES), random.choice(DELAYS), random.choice(LONG), len(body))
    return b"put %d %d %d %d\r\n%b\r\n" % (*numbers, body)


def job_command(random: Random, job_id: int) -> str:
    """Any of the commands that name a job."""
    command = random.choice(JOB_COMMANDS)
    return command.format(id=job_id, priority=random.choice(PRIORITIES), delay=random.choice(DELAYS))


class Differential(RuleBasedStateMachine):
    """Up to five connections that say what they like.

    Hypothesis chooses what kind of thing is done and seeds a Random, which chooses the rest: it repeats itself less.
    """

    steps = 0
    replies = 0

    def __init__(self) -> None:
        super().__init__()
        self.servers = SideBySide(max_job_size=MAX_JOB_SIZE)
        self.servers.__enter__()

    def teardown(self) -> None:
        type(self).replies += self.servers.compared
        self.servers.__exit__()

    @initialize(seed=st.integers(0, 2**64 - 1))
    def start(self, seed: int) -> None:
        self.random = Random(seed)
        for _ in range(3):
            self.open()

    def open(self) -> None:
        """Another connection, as a rule to other tubes than the ones before."""
        pair = self.servers.open()
        if self.random.random() < 0.8:
            used, watched, watched_too = (self.random.choice(TUBES) for _ in range(3))
            self.say(pair, f"use {used}")
            self.say(pair, f"watch {watched}")
            self.say(pair, f"watch {watched_too}")

    def someone(self) -> Pair:
        """One of the connections, as a rule one that does not wait."""
        free = [pair for pair in self.servers.pairs if not pair.unanswered]
        return self.random.choice(free if free and self.random.random() < 0.8 else self.servers.pairs)

    def say(self, pair: Pair, *lines: str | bytes, then_end: bool = False) -> None:
        """Send commands, each of which has one reply, on one of the connections in one piece.

        In which order the commands of two connections are carried out that have both sent several is nothing that a
        server promises: only one at a time has some piled up, and then the others send one by one.
        """
        type(self).steps += 1
        commands = [line if isinstance(line, bytes) else f"{line}\r\n".encode() for line in lines]
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

    @rule()
    def connect(self) -> None:
        if len(self.servers.pairs) < 5:
            self.open()

    @precondition(lambda self: len(self.servers.pairs) > 2)
    @rule()
    def disconnect(self) -> None:
        pair = self.someone()
        if pair.unanswered > 1 or self.random.random() < 0.5:
            self.servers.finish(pair)
        else:
            self.servers.hang_up(pair)

    @precondition(lambda self: self.servers.pairs)
    @rule()
    def produce(self) -> None:
        self.say(self.someone(), *(put(self.random) for _ in range(self.random.choice((1, 1, 2, 4)))))

    @precondition(lambda self: self.servers.pairs)
    @rule(times=st.integers(1, 4))
    def work(self, times: int) -> None:
        """Reserve, or do something with a job that is reserved, as a rule from the connection that has it."""
        for _ in range(times):
            busy = [pair for pair in self.servers.pairs if pair.reserved and not pair.unanswered]
            if busy and self.random.random() < 0.7:
                pair = self.random.choice(busy)
                self.say(pair, job_command(self.random, self.random.choice(pair.reserved)))
            else:
                self.say(self.someone(), put(self.random), self.random.choice(RESERVES))

    @precondition(lambda self: self.servers.pairs)
    @rule()
    def meddle(self) -> None:
        """Do something with any job, from any connection."""
        self.say(self.someone(), job_command(self.random, self.random.choice([*self.servers.job_ids, 10**6])))

    @precondition(lambda self: self.servers.pairs)
    @rule()
    def see_to_tubes(self) -> None:
        command = self.random.choice(TUBE_COMMANDS).format(
            tube=self.random.choice(TUBES), bound=self.random.randrange(6)
        )
        self.say(self.someone(), command)

    @precondition(lambda self: self.servers.pairs)
    @rule()
    def ask(self) -> None:
        self.say(self.someone(), *self.random.choices(QUESTIONS, k=self.random.choice((1, 1, 4))))

    @precondition(lambda self: self.servers.pairs)
    @rule()
    def say_something_odd(self) -> None:
        self.say(self.someone(), self.random.choice(ODD))

    @precondition(lambda self: self.servers.pairs)
    @rule(noise=st.binary(max_size=300))
    def get_out_of_step(self, noise: bytes) -> None:
        """Put what is too big, or not of the size that was said, or send what is no command at all."""
        pair = self.someone()
        if self.random.random() < 0.3:
            size = self.random.randrange(MAX_JOB_SIZE + 1, 3000)
            self.say(pair, b"put 0 0 1000 %d\r\n" % size + b"\r" * size + b"\r\n")
        elif noise:
            self.say(pair, noise, then_end=True)
        else:
            body = self.random.randbytes(self.random.randrange(MAX_JOB_SIZE))
            wrong = self.random.choice((b"\r", b"", b"xx", b"\n\r"))
            self.say(pair, b"put 0 0 1000 %d\r\n%b%b\r\n" % (len(body), body, wrong), "list-tube-used", then_end=True)


@pytest.mark.long
def test_the_embedded_server_and_the_real_one_say_the_same(record_property: Callable[[str, object], None]) -> None:
    """BEANPOOL_DIFFERENTIAL_EXAMPLES asks for more, and then for others each time."""
    examples = int(os.environ.get("BEANPOOL_DIFFERENTIAL_EXAMPLES", "0"))
    Differential.steps = Differential.replies = 0
    run_state_machine_as_test(
        Differential,
        settings=settings(
            max_examples=examples or 15,
            stateful_step_count=60,
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
