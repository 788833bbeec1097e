"""gevent and eventlet: refused with a sentence, before anything can hang."""

from __future__ import annotations

import _thread
import importlib.util
import queue
import select
import socket
from types import ModuleType

import pytest
from support.processes import run_python

from beanpool import BeanpoolError, Connection, PoolManager

REAL = """
import sys
if sys.argv[2] == "late":
    import beanpool
if sys.argv[1] == "gevent":
    from gevent import monkey
    monkey.patch_all()
else:
    import eventlet
    eventlet.monkey_patch()
from beanpool import BeanpoolError, Connection, PoolManager
for make in (lambda: Connection("127.0.0.1", 1), lambda: PoolManager("127.0.0.1:1")):
    try:
        make()
    except BeanpoolError as error:
        assert str(error).startswith(f"{sys.argv[1]} has replaced the standard library's socket"), error
    else:
        raise AssertionError("it was taken")
print("done")
"""


@pytest.mark.parametrize("culprit", ["gevent.monkeyed", "eventlet.green"])
@pytest.mark.parametrize(
    ("module", "name"),
    [(socket, "socket"), (select, "select"), (_thread, "start_new_thread"), (queue, "SimpleQueue")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_each_thing_that_is_replaced_is_refused(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, culprit: str
) -> None:
    def green() -> None: ...

    green.__module__ = culprit
    with monkeypatch.context() as patch:
        patch.setattr(module, name, green)
        for make in (lambda: Connection("127.0.0.1", 1), lambda: PoolManager("127.0.0.1:1")):
            with pytest.raises(BeanpoolError, match=rf"^{culprit.split('.')[0]} has replaced .* plain threads"):
                make()


def test_what_others_have_replaced_is_their_business(monkeypatch: pytest.MonkeyPatch) -> None:
    class Guarded(socket.socket):
        """As a program has it that watches its sockets, or sends them through a proxy."""

    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", Guarded)
        with PoolManager("127.0.0.1:1"):
            pass


@pytest.mark.parametrize("when", ["early", "late"])
@pytest.mark.parametrize("culprit", ["gevent", "eventlet"])
def test_the_real_ones(culprit: str, when: str) -> None:
    # Not imported here: it would have its say in every fork of the tests.
    if importlib.util.find_spec(culprit) is None:
        pytest.skip(f"there is no {culprit}")
    ended = run_python("import warnings; warnings.simplefilter('ignore')" + REAL, culprit, when)
    assert (ended.stdout, ended.returncode) == ("done\n", 0), ended.stderr
