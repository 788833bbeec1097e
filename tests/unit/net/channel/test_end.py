"""What is left of a Channel in a forked child, and of one that is dropped."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any

from support.processes import assert_baseline, run_python
from support.scripted import expect, send
from support.servers import BeanstalkdServer
from support.waiting import wait_until

from beanpool.net.channel import Channel
from beanpool.protocol.commands import STATS, encode_bare, encode_reserve_with_timeout

if TYPE_CHECKING:
    from conftest import StartScripted
from support.channels import PUT_REQUEST, after, soon

FORKED = """
import os, socket, sys, time
from beanpool.net.channel import Channel
from beanpool.errors import ConnectionFailed
from beanpool.protocol.commands import PUT, RESERVE_WITH_TIMEOUT, encode_put, encode_reserve_with_timeout

def connect():
    return Channel(socket.create_connection(("127.0.0.1", int(sys.argv[1]))), "q1:11300")

idle, waiting = connect(), connect()
request = encode_put(b"hello", 0, 0, 120)
assert idle.exchange(PUT, request, time.monotonic() + 5).number == 7
waiting.begin(encode_reserve_with_timeout(5), [RESERVE_WITH_TIMEOUT])
child = os.fork()
if child == 0:
    for channel in (idle, waiting):
        assert channel.closed and channel.fileno() == -1
        channel.interrupt()
        channel.half_close()
        channel.close("the child is done")
        try:
            channel.exchange(PUT, request, time.monotonic() + 5)
        except ConnectionFailed as error:
            assert not error.may_have_taken_effect
            assert "it belongs to the parent process" in str(error), error
        else:
            raise AssertionError("the child has used the parent's socket")
    del idle, waiting, channel
    sys.exit(17)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 17
assert waiting.pick_up(time.monotonic() + 5).number == 3
assert idle.exchange(PUT, request, time.monotonic() + 5).number == 8
print("done")
"""


def test_a_forked_child_leaves_the_sockets_to_its_parent(scripted_server: StartScripted) -> None:
    waiting = encode_reserve_with_timeout(5)
    used_again = threading.Event()

    def release(connection: Any) -> None:
        used_again.set()

    server = scripted_server(
        [expect(PUT_REQUEST), send(b"INSERTED 7\r\n"), expect(PUT_REQUEST), release, send(b"INSERTED 8\r\n")],
        [expect(waiting), after(0.3), send(b"RESERVED 3 0\r\n\r\n")],
    )
    ended = run_python(FORKED, str(server.port))
    assert (ended.stdout, ended.stderr, ended.returncode) == ("done\n", "", 0)
    assert used_again.is_set()
    assert server.received(0) == PUT_REQUEST * 2
    assert server.received(1) == waiting


def test_a_dropped_channel_closes_its_socket(beanstalkd: BeanstalkdServer) -> None:
    beanstalkd.control.open()
    with assert_baseline():
        sock = socket.create_connection((beanstalkd.host, beanstalkd.port), 5)
        channel = Channel(sock, beanstalkd.address)
        assert channel.exchange(STATS, encode_bare(STATS), soon()).status == "OK"
        del channel, sock
    wait_until(lambda: beanstalkd.control.other_connections() == 0, "the server to see it closed")
