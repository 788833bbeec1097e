"""The demo: real servers, one of them killed; and that it would notice a loss."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.command_line import run_beanpool, run_in_terminal, started_beanpool
from support.processes import command_lines
from support.servers import BeanstalkdServer, require_beanstalkd
from support.threads import run_together
from support.waiting import wait_until

from beanpool.cli.demo.command import Demo, Result, summary
from beanpool.cli.demo.ledger import Ledger, Tally
from beanpool.cli.demo.local_servers import EmbeddedProcess, LoggedServer
from beanpool.cli.demo.scoreboard import LiveTable, PlainLines, Row, Silent, View, choose_view
from beanpool.cli.stop_signals import StopSignals

SUMMARY = re.compile(r"[\d,]+ put · [\d,]+ done · 0 lost · [\d,]+ delivered twice \(at-least-once\) · worst put \d+ ms")


@pytest.fixture
def program() -> str:
    return require_beanstalkd()


def processes_of(folder: Path) -> list[str]:
    """The processes whose command line names `folder`, whoever their parent is now."""
    return [command for command in command_lines() if str(folder) in command]


def assert_nothing_left(folder: Path) -> None:
    assert processes_of(folder) == []
    assert [path.name for path in folder.iterdir() if path.name.startswith("beanpool-")] == []


# the whole command


@pytest.mark.usefixtures("program")
def test_the_demo_loses_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    done = run_beanpool("demo", "--seconds", "4", "--json", "--seed", "7", env={"TMPDIR": str(tmp_path)})
    assert (done.returncode, done.stderr) == (0, b"")
    report = json.loads(done.stdout)
    assert report["put"] == report["done"] > 100
    assert report["lost"] == report["left_on_servers"] == 0
    assert report["seed"] == 7
    assert set(report["servers"]) == {"b1", "b2", "b3"}
    assert all(server["put"] > 0 and server["done"] > 0 for server in report["servers"].values())
    assert sum(server["put"] for server in report["servers"].values()) == report["put"]
    assert 0 < report["worst_put_seconds"] < 5
    assert_nothing_left(tmp_path)


@pytest.mark.usefixtures("program")
def test_plain_output_tells_the_story_line_by_line() -> None:
    done = run_beanpool("demo", "--seconds", "4", env={"PYTHONUTF8": "1"})
    assert (done.returncode, done.stderr) == (0, b"")
    *lines, last = done.stdout.decode().splitlines()
    assert SUMMARY.fullmatch(last)
    assert "\x1b" not in done.stdout.decode()
    story = "\n".join(lines)
    killed = re.search(r"killed (b\d) with SIGKILL", story)
    assert killed
    victim = killed[1]
    began = [f"killed {victim}", f"sees {victim} down", f"started {victim} again"]
    # On a slow machine the producers may stop before the pool has seen the server's return.
    for end in (f"sees {victim} up", "producers stop"):
        events = [*began, end]
        assert sorted(events, key=story.index) == events
    assert len([line for line in lines if re.match(r" +\d+\.\d s  put ", line)]) >= 3


@pytest.mark.usefixtures("program")
def test_on_a_terminal_the_table_is_drawn_in_place() -> None:
    code, output = run_in_terminal("demo", "--seconds", "2", env={"PYTHONUTF8": "1"}, columns=60)
    assert code == 0
    frames = output.decode().split("\x1b[9A")
    # How many are drawn in the time is the machine's affair.
    assert len(frames) > 1
    drawn = [re.sub(r"\x1b\[K\r", "", frame).splitlines() for frame in frames]
    # Only the last frame has more than the 9 lines: the summary.
    assert {len(lines) for lines in drawn[:-1]} == {9}
    assert SUMMARY.fullmatch(drawn[-1][9])
    assert all(len(line) < 60 for lines in drawn for line in lines[:9])


@pytest.mark.usefixtures("program")
@pytest.mark.parametrize(
    ("number", "then", "processes"),
    [(signal.SIGTERM, b"killed", 2), (signal.SIGHUP, b"put", 3)],
    ids=["SIGTERM", "SIGHUP"],
)
def test_a_demo_that_is_stopped_leaves_nothing(
    tmp_path: Path, number: signal.Signals, then: bytes, processes: int
) -> None:
    # Longer than the test takes on the slowest machine: the signal must find it at work.
    arguments = ("demo", "--seconds", "60", "--plain")
    with contextlib.ExitStack() as stack:
        # What nohup has started ignores SIGHUP, and so would the demo.
        stack.callback(signal.signal, number, signal.signal(number, signal.SIG_DFL))
        process = stack.enter_context(started_beanpool(*arguments, env={"TMPDIR": str(tmp_path)}))
        assert process.stdout is not None
        assert any(then in line for line in process.stdout)
        assert len(processes_of(tmp_path)) >= processes
        process.send_signal(number)
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 128 + number
    assert errors.startswith(b"beanpool: the demo was interrupted")
    assert len(errors.splitlines()) == 1
    assert_nothing_left(tmp_path)


@pytest.mark.usefixtures("program")
def test_a_demo_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    with started_beanpool("demo", "--seconds", "4", "--plain", env={"TMPDIR": str(tmp_path)}) as process:
        assert process.stdout is not None
        assert any(b"put" in line for line in process.stdout)
        assert len(processes_of(tmp_path)) >= 3
        process.kill()
        process.communicate(timeout=10)
    assert process.returncode == -signal.SIGKILL
    wait_until(lambda: not processes_of(tmp_path), "the end of the servers")
    assert_nothing_left(tmp_path)


@pytest.mark.usefixtures("program")
def test_a_demo_whose_reader_goes_away_leaves_nothing(tmp_path: Path) -> None:
    with started_beanpool("demo", "--seconds", "4", env={"TMPDIR": str(tmp_path)}) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(20) == 141
    assert_nothing_left(tmp_path)


# without beanstalkd

NO_BEANSTALKD = {"BEANSTALKD": "/nowhere/beanstalkd", "PYTHONUTF8": "1"}


def test_without_beanstalkd_embedded_servers_are_killed_and_what_goes_with_them_is_counted() -> None:
    done = run_beanpool("demo", "--seconds", "4", "--json", "--seed", "7", env=NO_BEANSTALKD)
    assert (done.returncode, done.stderr) == (0, b"")
    report = json.loads(done.stdout)
    assert report["embedded"] is True
    assert report["put"] == report["done"] + report["gone_with_server"] > 100
    assert report["lost"] == report["left_on_servers"] == 0
    assert all(server["put"] > 0 and server["done"] > 0 for server in report["servers"].values())


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="tells processes by their environment")
@pytest.mark.parametrize(
    ("number", "returncode"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)], ids=["SIGINT", "SIGKILL"]
)
def test_without_beanstalkd_it_says_so_and_leaves_nothing_when_it_is_stopped(
    tmp_path: Path, number: signal.Signals, returncode: int
) -> None:
    environ = {**NO_BEANSTALKD, "TMPDIR": str(tmp_path)}
    with started_beanpool("demo", "--seconds", "4", "--plain", env=environ) as process:
        assert process.stdout is not None
        lines: list[str] = []
        while not lines or "it keeps no log" not in lines[-1]:
            lines.append(process.stdout.readline().decode())
            assert lines[-1]
        assert lines[0].startswith("$BEANSTALKD names /nowhere/beanstalkd, which is no program: install it (apt-get ")
        assert lines[1].startswith("The servers are embedded ones")
        assert "3 embedded servers" in lines[2]
        # The demo, two servers, and for each of the three who clears away if the demo cannot.
        assert len(processes_with(f"TMPDIR={tmp_path}")) == 6
        process.send_signal(number)
        process.communicate(timeout=10)
    assert process.returncode == returncode
    wait_until(lambda: not processes_with(f"TMPDIR={tmp_path}"), "the end of the servers")
    assert_nothing_left(tmp_path)


def processes_with(variable: str) -> list[str]:
    """The processes that run with this variable in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if variable.encode() in path.read_bytes().split(b"\0"):
                found.append(path.parent.name)
    return found


# that a loss is noticed


class KilledWithJobs(BeanstalkdServer):
    """Is killed when it surely has jobs, and says that it has them back."""

    keeps_jobs = True

    def kill(self) -> None:
        self.control.command("pause-tube orders 60")
        wait_until(lambda: self.control.counter("current-jobs-ready") > 3, "jobs that will be lost")
        super().kill()


class ForgetfulServer(KilledWithJobs, LoggedServer):
    """Loses its log when it is killed."""

    def kill(self) -> None:
        super().kill()
        assert self.wal_dir is not None
        for path in self.wal_dir.iterdir():
            path.unlink()


class BoastfulServer(KilledWithJobs, EmbeddedProcess):
    """Has no log to lose."""


def lose_jobs(servers: Sequence[ForgetfulServer | BoastfulServer]) -> None:
    """Run the demo on servers that lose what they have, and see that it says so."""
    with contextlib.ExitStack() as stack:
        for server in servers:
            stack.enter_context(server)
        signals = stack.enter_context(StopSignals())
        result = Demo(servers, Silent(), signals, seconds=2, seed=1).run()
    assert result.lost > 3
    assert result.tally.put == result.tally.done + result.lost
    assert result.left_on_servers == 0
    assert not result.good
    assert f" {result.lost} lost " in summary(result)


def test_lost_jobs_are_reported(program: str) -> None:
    lose_jobs([ForgetfulServer(name, program) for name in ("b1", "b2", "b3")])


def test_lost_jobs_of_embedded_servers_are_reported() -> None:
    lose_jobs([BoastfulServer(name) for name in ("b1", "b2", "b3")])


def tally_of(ledger: Ledger) -> Tally:
    ledger.put_acknowledged("a", "s1", 0.25, maybe_duplicate=False)
    ledger.delivered("a", "s1")
    return ledger.tally()


def test_only_a_run_without_a_blemish_is_good() -> None:
    tally = tally_of(Ledger())
    assert Result(1.0, tally, 0, ()).good
    assert not Result(1.0, tally, 1, ()).good
    assert not Result(1.0, tally, None, ()).good
    assert not Result(1.0, tally, 0, ("worker-1 failed",)).good
    assert not Result(1.0, Ledger().tally(), 0, ()).good
    assert summary(Result(1.0, tally, 0, ())) == (
        "1 put · 1 done · 0 lost · 0 delivered twice (at-least-once) · worst put 250 ms"
    )


# its parts


def test_the_ledger_counts_each_job_once() -> None:
    ledger = Ledger()
    ledger.delivered("early", "s2")
    ledger.put_acknowledged("early", "s1", 0.1, maybe_duplicate=True)
    ledger.put_acknowledged("late", "s1", 0.2, maybe_duplicate=False)
    ledger.put_acknowledged("never", "s2", 0.1, maybe_duplicate=False)
    for server in ("s1", "s1", "s2"):
        ledger.delivered("late", server)
    ledger.delivered("of a put that failed", "s1")
    ledger.put_refused()
    tally = ledger.tally()
    assert (tally.put, tally.done, tally.outstanding) == (3, 2, 1)
    assert (tally.delivered_twice, tally.refused, tally.maybe_duplicate) == (1, 1, 1)
    assert tally.worst_put == 0.2
    assert tally.put_by_server == {"s1": 2, "s2": 1}
    assert tally.done_by_server == {"s1": 3, "s2": 2}


def test_the_ledger_tells_gone_from_lost() -> None:
    ledger = Ledger()
    for token, server in (("received", "s1"), ("gone", "s1"), ("late", "s1"), ("lost", "s2")):
        ledger.put_acknowledged(token, server, 0.1, maybe_duplicate=False)
    ledger.delivered("received", "s1")
    ledger.gone_with("s1")
    ledger.put_acknowledged("of the next process", "s1", 0.1, maybe_duplicate=False)
    assert (ledger.tally().gone, ledger.tally().outstanding) == (2, 2)
    # A worker had it, and says so only now.
    ledger.delivered("late", "s1")
    tally = ledger.tally()
    assert (tally.put, tally.done, tally.gone, tally.outstanding) == (5, 2, 1, 2)
    assert " · 1 gone with the server that was killed · 2 lost · " in summary(Result(1.0, tally, 0, ()))


def test_the_ledger_is_exact_with_threads() -> None:
    ledger = Ledger()

    def put(first: int) -> None:
        for number in range(first, first + 2000):
            ledger.put_acknowledged(str(number), "s", 0.0, maybe_duplicate=False)

    def deliver(first: int) -> None:
        for number in range(first, first + 3000):
            ledger.delivered(str(number), "s")

    run_together(
        *(functools.partial(work, first) for work, first in ((put, 0), (put, 2000), (deliver, 0), (deliver, 1000)))
    )
    tally = ledger.tally()
    assert (tally.put, tally.done, tally.delivered_twice) == (4000, 4000, 2000)


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    broken = tmp_path / "beanstalkd"
    broken.write_text("#!/bin/sh\necho the disk is full >&2; exit 1\n")
    broken.chmod(0o755)
    done = run_beanpool("demo", env={"BEANSTALKD": str(broken), "TMPDIR": str(tmp_path)})
    assert (done.returncode, done.stdout) == (69, b"")
    assert done.stderr.endswith(b" ended with status 1: the disk is full\n")
    assert len(done.stderr.splitlines()) == 1
    assert_nothing_left(tmp_path)


ROW = Row("b1", "127.0.0.1:4711", "down", False, 1200, 0, 7, 0.25, 4, 2, "refused\x1b[31m")


def test_a_dead_server_shows_the_jobs_that_wait_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    view: View
    for view in (LiveTable(), PlainLines()):
        view.note(0.5, "it is \x1b dead")
        view.show(1.0, [ROW], Ledger().tally())
        output = capsys.readouterr().out
        assert "DOWN" in output.upper()
        assert "(1,200)" in output
        assert "it is \\x1b dead" in output
        assert "\x1b[31m" not in output


def test_the_live_table_needs_a_terminal_that_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "24")
    ours, theirs = os.openpty()
    with os.fdopen(ours, "rb"), os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        assert isinstance(choose_view(3, plain=False, json=False), LiveTable)
        assert isinstance(choose_view(3, plain=True, json=False), PlainLines)
        assert isinstance(choose_view(3, plain=False, json=True), Silent)
        assert isinstance(choose_view(30, plain=False, json=False), PlainLines)
        monkeypatch.setenv("TERM", "dumb")
        assert isinstance(choose_view(3, plain=False, json=False), PlainLines)
