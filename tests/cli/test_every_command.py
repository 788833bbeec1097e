"""What all commands have in common: silent servers, closed pipes, dry runs, narrow windows, programs that read them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from support.command_line import call_at_once, call_beanpool, call_into_file
from support.servers import BeanstalkdServer
from support.waiting import within

from beanpool import Connection
from beanpool.cli import screen
from beanpool.cli.tables import cells

if TYPE_CHECKING:
    from conftest import StartCluster

# Privileged ports where nothing listens: a connect is refused at once.
NOBODY = ("127.0.0.1:1", "127.0.0.1:2")
# Each has a tube of its own where it changes something, so that all can run at once. Beside it the exit codes: if no
# server is there, and if one of them is silent.
COMMANDS = {
    "peek read": (69, 3),
    "peek read --max 5": (69, 3),
    "find x read": (69, 3),
    "job {silent}/1": (69, 69),
    "kick kicked": (69, 3),
    "kick --job {silent}/1 {other}/1": (69, 3),
    "delete --yes {silent}/1 {other}/1 {silent}/2": (69, 3),
    "delete --dry-run {silent}/1": (69, 69),
    "clear cleared --yes": (69, 3),
    "clear read --dry-run": (69, 3),
    "move moved target --yes": (69, 3),
    "move read target --dry-run": (69, 3),
    "evacuate {silent} --yes": (69, 69),
    "evacuate {silent} --dry-run": (69, 69),
    "pause paused 5m": (69, 3),
    "pause read 5m --dry-run": (69, 3),
    "resume resumed": (69, 3),
    "export read": (69, 3),
    "servers": (69, 3),
    "ping": (69, 3),
    "top --count 1": (69, 3),
    "doctor --probe": (69, 3),
    "stats": (69, 3),
    "stats read": (69, 3),
    "tubes": (69, 3),
    # A put goes to another server.
    "put put x": (69, 0),
    "import": (69, 0),
    # It asks none.
    "route ann": (0, 0),
}
BENCH = "bench --seconds 0.05 --threads 1"
TUBES = ("read", "kicked", "cleared", "moved", "paused", "resumed")
LINES = b'{"tube": "imported", "body": "1"}\n{"tube": "imported", "body": "2"}\n'


def called(
    commands: list[str], addresses: list[str], *options: str
) -> Iterator[tuple[str, subprocess.CompletedProcess[bytes]]]:
    """Each command and what came of it; the last of the servers is the silent one."""
    common = ["-u", f"beanstalk://{','.join(addresses)}/?timeout=40&connect_timeout=40", *options]
    words = [command.format(silent=addresses[-1], other=addresses[0]).split() for command in commands]
    return zip(commands, call_at_once([[*common, *command] for command in words], LINES), strict=True)


def buried_and_delayed(server: BeanstalkdServer, tube: str) -> None:
    with Connection.from_url(server.url) as connection:
        connection.use(tube)
        connection.watch(tube)
        connection.put("x")
        job = connection.reserve(0)
        assert job is not None
        job.bury()
        connection.put("x", delay=300)
        connection.pause_tube(tube, 500)


def test_without_a_server_it_says_so_and_exits_with_69() -> None:
    for command, done in called([*COMMANDS, BENCH], list(NOBODY), "--timeout", "1"):
        assert done.returncode == COMMANDS.get(command, (69, 3))[0], done
        text = (done.stdout + done.stderr).decode()
        assert NOBODY[1] in text, command
        assert command == "route ann" or "connect" in text, command
        # What is wrong is said line by line, and never as a list that was made one line by escapes.
        assert "\\n" not in text, done
        complaints = [line for line in done.stderr.decode().splitlines() if line.startswith("beanpool: ")]
        assert len(complaints) <= 3, done


@pytest.mark.parametrize("how", ["dead", "frozen"])
def test_one_silent_server_is_named_and_costs_the_timeout_and_no_more(cluster: StartCluster, how: str) -> None:
    servers = cluster(3)
    for tube in TUBES:
        for server in servers:
            server.control.put(b"x", tube)
    addresses = [server.address for server in servers]
    commands = [*COMMANDS, BENCH] if how == "dead" else list(COMMANDS)
    with contextlib.ExitStack() as stack:
        if how == "dead":
            servers[2].kill()
        else:
            servers[2].freeze()
            stack.callback(servers[2].thaw)
        # The option wins over what the URL says, which is far longer than this may take.
        with within(2, slack=15):
            done_by_command = dict(called(commands, addresses, "--timeout", "2"))
    for command, done in done_by_command.items():
        code = COMMANDS.get(command, (69, 3))[1]
        assert done.returncode == code, done
        assert code == 0 or addresses[2] in (done.stdout + done.stderr).decode(), done
    # The others did what was asked of them, and no dry run did anything.
    assert (
        f"{addresses[0]}/1 deleted\n" == done_by_command["delete --yes {silent}/1 {other}/1 {silent}/2"].stdout.decode()
    )
    for server in servers[:2]:
        counted = {tube: server.control.counter("current-jobs-ready", tube) for tube in ("cleared", "moved", "target")}
        assert counted == {"cleared": 0, "moved": 0, "target": 1}
        assert server.control.counter("pause", "paused") == 300
        assert server.control.counter("pause", "read") == 0
    assert sum(server.control.counter("current-jobs-ready", "imported") for server in servers[:2]) == 2


def test_evacuate_with_nobody_to_take_the_jobs_leaves_them_where_they_are(cluster: StartCluster) -> None:
    servers = cluster(2)
    servers[0].control.put(b"x", "mail")
    servers[1].kill()
    url = "beanstalk://" + ",".join(server.address for server in servers)
    done = call_beanpool("-u", url, "--timeout", "1", "evacuate", servers[0].address, "--yes")
    assert done.returncode == 69, done
    assert b"no server took the put" in done.stderr
    assert servers[0].control.counter("current-jobs-ready", "mail") == 1


def test_json_is_lines_that_other_programs_take(cluster: StartCluster) -> None:
    servers = cluster(2)
    for server in servers:
        for tube in TUBES:
            server.control.put(b"\xff\x7f\x1b", tube)
    servers[1].kill()
    # bench has no jobs of others to show, and takes longest.
    printed = b""
    for command, done in called(list(COMMANDS), [server.address for server in servers], "--json", "--timeout", "2"):
        assert all(isinstance(json.loads(line), dict) for line in done.stdout.splitlines()), command
        assert done.stdout.isascii(), done
        printed += done.stdout
    assert printed.count(b"\n") > len(COMMANDS) / 2
    jq = shutil.which("jq")
    if jq is not None:
        read = subprocess.run([jq, "-c", "type"], input=printed, capture_output=True, timeout=30, check=True)
        assert read.stdout.split() == [b'"object"'] * printed.count(b"\n")


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("clear mail", "Delete 2 jobs (1 delayed, 1 buried) of tube mail"),
        ("move mail post", "Move 2 jobs (1 delayed, 1 buried) from tube mail to post"),
        ("evacuate {server}", "Move 2 jobs (1 delayed, 1 buried) from server {server} to the others"),
        ("kick mail", "Kick 1 jobs (1 buried) of tube mail"),
        ("kick --job {server}/1", "{server}/1 would be kicked"),
        ("delete {server}/1", "{server}/1 would be deleted"),
        ("pause mail 9", "mail would be paused for 9s on {server}"),
        ("resume mail", "mail would be resumed on {server}"),
    ],
)
def test_a_dry_run_says_what_would_be_done_and_changes_nothing(cluster: StartCluster, command: str, shown: str) -> None:
    server, other = cluster(2)
    buried_and_delayed(server, "mail")
    url = f"beanstalk://{server.address},{other.address}"
    done = call_beanpool("-u", url, *command.format(server=server.address).split(), "--dry-run")
    assert (done.returncode, done.stderr) == (0, b"")
    assert shown.format(server=server.address) in done.stdout.decode()
    assert [server.control.counter(f"current-jobs-{state}", "mail") for state in ("buried", "delayed")] == [1, 1]
    assert server.control.counter("pause", "mail") == 500
    assert other.control.counter("total-jobs") == 0


@pytest.mark.parametrize(
    "command",
    ["export", "find x", "find x --body", "peek mail --json", "servers", "top --interval 0.2", "doctor --json"],
)
def test_a_reader_that_goes_away_ends_it_without_a_word(beanstalkd: BeanstalkdServer, command: str) -> None:
    beanstalkd.control.put(b"x" * 60_000, "mail")
    reading, writing = os.pipe()
    os.close(reading)
    code, errors = call_into_file(os.fdopen(writing, "wb"), "-u", beanstalkd.url, *command.split())
    assert (code, errors) == (141, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full disk to write to")
@pytest.mark.parametrize("command", ["export", "tubes"])
def test_a_full_disk_is_one_line(beanstalkd: BeanstalkdServer, command: str) -> None:
    # Less than what is kept back before it is written.
    beanstalkd.control.put(b"x" * 60, "mail")
    code, errors = call_into_file(open("/dev/full", "wb"), "-u", beanstalkd.url, command)  # noqa: SIM115
    assert code == 1
    assert errors.endswith("No space left on device\n")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "stdin", "words"),
    [
        ("delete - --yes", b"\xff\n", "not '\\\\xff'"),
        ("kick --job -", b"1\nx\n", "not 'x'"),
        ("import", b"[" * 100_000, "line 1 is no job: it is no JSON"),
        ("move mail a,b --dry-run", b"", "not 'a,b'"),
        ("evacuate {server} --dry-run", b"", "no other server takes puts"),
        ("servers nonsense", b"", "unrecognized arguments: nonsense"),
        ("nonsense", b"", "invalid choice: 'nonsense'"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(
    beanstalkd: BeanstalkdServer, command: str, stdin: bytes, words: str
) -> None:
    beanstalkd.control.put(b"x", "mail")
    done = call_beanpool("-u", beanstalkd.url, *command.format(server=beanstalkd.address).split(), stdin=stdin)
    assert done.returncode == 2, done
    assert words in done.stderr.decode()
    assert done.stderr.startswith(b"beanpool: ")
    assert beanstalkd.control.counter("current-jobs-ready", "mail") == 1


@pytest.mark.parametrize("rich", [True, False], ids=["rich", "plain"])
def test_no_line_is_longer_than_the_window_and_no_color_is_heeded(
    cluster: StartCluster, monkeypatch: pytest.MonkeyPatch, rich: bool
) -> None:
    servers = cluster(3)
    for server in servers:
        server.control.put(
            "ein Wörtchen, das länger ist, 緑の豆".encode() * 9, "a-tube-with-a-name-of-forty-characters-and-more"
        )
        buried_and_delayed(server, "mail")
    servers[2].kill()
    if not rich:
        for module in {"rich", *(name for name in sys.modules if name.startswith("rich."))}:
            monkeypatch.setitem(sys.modules, module, None)
    elif not screen.have_rich():
        pytest.skip("rich is not installed")
    screen.have_rich.cache_clear()
    url = "beanstalk://" + ",".join(server.address for server in servers)
    env = {"COLUMNS": "60", "LINES": "20", "NO_COLOR": "1", "TERM": "xterm-256color"}
    commands = ["peek mail", "peek mail --max 9", "find .", "kick mail", "move mail post --yes"]
    commands += ["servers", "ping", "doctor", "stats", "stats mail", "tubes"]
    # With rich it takes the whole screen.
    commands += [] if rich else ["top --count 2 --interval 0.2", "bench --seconds 0.05 --threads 1"]
    try:
        for command in commands:
            done = call_beanpool("-u", url, "--timeout", "2", *command.split(), env=env, terminal=True)
            assert done.returncode in (0, 3), done
            # Bold is no colour.
            lines = re.sub("\x1b\\[[0-2]?m", "", done.stdout.decode()).splitlines()
            assert lines, command
            # Sentences are as long as they are: a terminal breaks them.
            tables = [line for line in lines if not line.startswith("no answer from ")]
            assert [line for line in tables if cells(line) > 60] == [], command
            assert "\x1b" not in "".join(lines), command
    finally:
        screen.have_rich.cache_clear()
