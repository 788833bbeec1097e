"""``beanpool top``: what is computed and drawn, on looks that are made up; and the command, on real servers."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import termios
from typing import TYPE_CHECKING, Any

import pytest
from support.command_line import call_beanpool, started_beanpool
from support.looks import HEALTHY, TUBE, status
from support.servers import BeanstalkdServer
from support.waiting import wait_until

from beanpool.cli.look import Look
from beanpool.cli.tables import cells, plain
from beanpool.cli.top.drawing import draw
from beanpool.cli.top.view import SORTS, Rates, in_order, view_of

if TYPE_CHECKING:
    from conftest import StartCluster


def seen(
    at: float = 0.0,
    *,
    servers: dict[str, Any] | None = None,
    tubes: dict[str, Any] | None = None,
    errors: dict[str, str] | None = None,
    ages: dict[str, float] | None = None,
    state: str = "up",
) -> Look:
    stats = {"q1": HEALTHY} if servers is None else servers
    addresses = [*stats, *(errors or {})]
    statuses = tuple(status(address, state=state if address in (errors or {}) else "up") for address in addresses)
    return Look(at, statuses, stats, errors or {}, tubes or {}, ages or {})


def test_rates_are_the_changes_of_counters_each_second() -> None:
    before = seen(10.0, tubes={"mail": {"q1": TUBE}})
    now = seen(
        12.0,
        servers={"q1": {**HEALTHY, "total-jobs": 1010, "cmd-delete": 906}},
        tubes={"mail": {"q1": {**TUBE, "total-jobs": 108, "cmd-delete": 90}}},
    )
    view = view_of(now, before)
    assert view.rates == view.servers[0].rates == Rates(5.0, 3.0)
    assert view.tubes[0].rates == Rates(4.0, 0.0)
    assert view_of(now, None).rates == Rates(None, None)


def test_a_server_that_was_restarted_has_no_rates_until_the_next_look() -> None:
    before = seen(10.0, tubes={"mail": {"q1": TUBE}})
    anew = {**HEALTHY, "id": "another", "total-jobs": 3, "cmd-delete": 1}
    now = seen(12.0, servers={"q1": anew}, tubes={"mail": {"q1": {**TUBE, "total-jobs": 3, "cmd-delete": 1}}})
    view = view_of(now, before)
    assert view.servers[0].rates == view.tubes[0].rates == Rates(None, None)


@pytest.mark.parametrize(
    ("here", "age", "trouble"),
    [
        ({"q1": TUBE}, None, ""),
        ({"q1": {**TUBE, "current-jobs-ready": 2}}, 3.0, ""),
        ({"q1": {**TUBE, "current-jobs-ready": 2}}, 90.0, "stuck"),
        ({"q1": {**TUBE, "current-jobs-ready": 2, "current-watching": 0}}, 3.0, "nobody watches it"),
        ({"q1": TUBE, "q2": {**TUBE, "current-jobs-ready": 2, "current-watching": 0}}, 3.0, ""),
        ({"q1": {**TUBE, "current-jobs-reserved": 1, "current-jobs-ready": 2, "current-watching": 0}}, 3.0, ""),
        ({"q1": {**TUBE, "current-jobs-buried": 2}}, None, "buried jobs"),
        ({"q1": {**TUBE, "pause-time-left": 9, "current-jobs-ready": 2}}, 90.0, "paused"),
    ],
)
def test_what_is_wrong_with_a_tube(here: dict[str, Any], age: float | None, trouble: str) -> None:
    ages = {} if age is None else {"mail": age}
    servers = {"q1": HEALTHY, "q2": {**HEALTHY, "id": "b"}}
    [row] = view_of(seen(servers=servers, tubes={"mail": here}, ages=ages), None).tubes
    assert row.trouble == trouble


def test_a_tube_that_workers_of_one_server_only_know_is_found_after_a_while() -> None:
    def tubes(done: int) -> dict[str, Any]:
        alone = {**TUBE, "current-jobs-ready": 2, "current-watching": 0}
        return {"mail": {"q1": {**TUBE, "cmd-delete": done}, "q2": alone}}

    servers = {"q1": HEALTHY, "q2": {**HEALTHY, "id": "b"}}
    before = seen(0.0, servers=servers, tubes=tubes(90))
    now = seen(2.0, servers=servers, tubes=tubes(96), ages={"mail": 90.0})
    assert view_of(now, before).tubes[0].trouble == "unwatched on 1"


def test_the_most_troubled_tubes_come_first_or_whatever_one_likes() -> None:
    tubes = {
        "calm": {"q1": {**TUBE, "current-jobs-ready": 9}},
        "alone": {"q1": {**TUBE, "current-jobs-ready": 1, "current-watching": 0}},
        "buried": {"q1": {**TUBE, "current-jobs-buried": 1}},
    }
    rows = view_of(seen(tubes=tubes, ages={"calm": 1.0, "alone": 5.0}), None).tubes
    orders = {sort: [row.name for row in in_order(rows, sort)] for sort in SORTS}
    assert orders["trouble"] == ["alone", "buried", "calm"]
    assert orders["name"] == ["alone", "buried", "calm"]
    assert orders["ready"] == ["calm", "alone", "buried"]
    assert orders["age"] == ["alone", "calm", "buried"]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 60), (60, 20), (60, 8), (30, 5)])
def test_it_fits_its_window(width: int, height: int) -> None:
    tubes = {f"customer-{number:03}-{'x' * (number % 190)}": {"q1": TUBE} for number in range(500)}
    tubes["緑" * 20] = {"q1": {**TUBE, "current-jobs-buried": 1}}
    look = seen(tubes=tubes, errors={"q2.example.com:11300": "cannot connect " * 9}, state="down")
    lines = [plain(line) for line in draw(view_of(look, None), width, height, sort="trouble", status="12:00:00")]
    assert len(lines) <= height
    assert max(map(cells, lines)) <= width
    if width >= 60 and height >= 20:
        text = "\n".join(lines)
        assert "q2.example.com:11300" in text
        assert "down" in text
        assert "more tubes" in text
        assert "!緑" in text


def test_without_a_terminal_it_prints_a_table_for_each_look(cluster: StartCluster) -> None:
    servers = cluster(2)
    url = "beanstalk://" + ",".join(server.address for server in servers)
    servers[0].control.put(b"x", "mail")
    done = call_beanpool("-u", url, "top", "--count", "2", "--interval", "0.1")
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode()
    assert text.count("!mail") == text.count("nobody watches it") == 2
    assert text.count(servers[1].address) == 2
    record = json.loads(call_beanpool("-u", url, "top", "--count", "1", "--json").stdout)
    troubles = [(tube["name"], tube["trouble"]) for tube in record["tubes"]]
    assert troubles == [("mail", "nobody watches it"), ("default", "")]


class Screen:
    """A terminal of its own for a command."""

    def __init__(self, columns: int, lines: int) -> None:
        self.ours, self.theirs = pty.openpty()
        self.resize(columns, lines)
        self.seen = b""
        os.set_blocking(self.ours, False)

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def shows(self, text: str) -> bool:
        try:
            self.seen += os.read(self.ours, 1 << 20)
        except (BlockingIOError, OSError):
            pass
        return text.encode() in self.seen

    def forget(self) -> None:
        self.seen = b""

    def press(self, key: str) -> None:
        os.write(self.ours, key.encode())

    def close(self) -> None:
        os.close(self.ours)
        os.close(self.theirs)


def test_on_a_terminal_it_draws_follows_the_window_and_ends_with_q(beanstalkd: BeanstalkdServer) -> None:
    pytest.importorskip("rich")
    for number in range(40):
        beanstalkd.control.put(b"x", f"customer-{number:03}")
    screen = Screen(80, 24)
    before = termios.tcgetattr(screen.theirs)
    arguments = ("-u", beanstalkd.url, "top", "--interval", "0.1")
    environment = {"TERM": "xterm-256color", "NO_COLOR": "1", "COLUMNS": "80", "LINES": "24"}
    with started_beanpool(
        *arguments, stdin=screen.theirs, stdout=screen.theirs, stderr=screen.theirs, env=environment
    ) as process:
        wait_until(lambda: screen.shows("sorted by trouble"), "the first look")
        assert b"customer-039" not in screen.seen
        screen.resize(120, 60)
        process.send_signal(signal.SIGWINCH)
        wait_until(lambda: screen.shows("customer-039"), "a taller window to be filled")
        screen.press("s")
        wait_until(lambda: screen.shows("sorted by name"), "the key")
        beanstalkd.kill()
        wait_until(lambda: screen.shows("0 of 1 servers"), "the dead server")
        screen.forget()
        beanstalkd.start()
        wait_until(lambda: screen.shows("1 of 1 servers"), "the server to be back")
        assert b"\x1b[3" not in screen.seen  # no colours
        screen.press("q")
        wait_until(lambda: screen.shows("\x1b[?1049l"), "the old screen")
        assert process.wait(20) == 0
    assert termios.tcgetattr(screen.theirs) == before
    screen.close()
