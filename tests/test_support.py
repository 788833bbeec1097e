"""The helpers of the tests do what the tests rely on."""

from __future__ import annotations

import os
import random
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from support.processes import any_child, assert_baseline, children, open_descriptors, run_python
from support.threads import background, run_together
from support.waiting import wait_until, within


class TestWaiting:
    def test_returns_what_the_predicate_returned(self) -> None:
        answers = iter([None, "", "yes"])
        assert wait_until(lambda: next(answers), "an answer") == "yes"

    def test_says_what_it_waited_for_and_what_it_saw(self) -> None:
        with pytest.raises(AssertionError, match=r"waited 0\.01 s for the moon; the last value was 0"):
            wait_until(lambda: 0, "the moon", timeout=0.01)

    def test_a_predicate_that_raises_is_heard(self) -> None:
        with pytest.raises(ZeroDivisionError):
            wait_until(lambda: 1 / 0, "nothing")

    def test_within_sees_a_late_return_and_a_late_exception(self) -> None:
        with within(1.0):
            pass
        with pytest.raises(AssertionError, match="reserve took"), within(-1.0, "reserve"):
            pass
        with pytest.raises(AssertionError, match="the call took") as caught, within(-1.0):
            raise KeyError
        assert isinstance(caught.value.__context__, KeyError)


class TestThreads:
    def test_results_and_exceptions_come_back(self) -> None:
        assert background(lambda: 5).result() == 5
        call = background(lambda: 1 / 0)
        assert isinstance(call.error(), ZeroDivisionError)
        with pytest.raises(ZeroDivisionError):
            call.result()

    def test_a_hanging_call_fails_the_test(self) -> None:
        release = threading.Event()
        call = background(release.wait, "the sleeper")
        with pytest.raises(AssertionError, match="the sleeper had not ended"):
            call.result(0.01)
        assert not call.done
        release.set()
        assert call.result()
        assert call.done

    def test_together_is_at_once_and_in_order(self) -> None:
        meeting = threading.Barrier(3)

        def meet(number: int) -> Callable[[], int]:
            def run() -> int:
                meeting.wait(5)
                return number

            return run

        assert run_together(meet(1), meet(2), meet(3)) == [1, 2, 3]


class TestProcesses:
    def test_descriptors(self) -> None:
        before = open_descriptors()
        with socket.socket() as opened:
            assert set(open_descriptors()) - set(before) == {opened.fileno()}
        assert set(open_descriptors()) == set(before)

    def test_a_leaked_descriptor_and_thread_are_named(self) -> None:
        release = threading.Event()
        opened: list[socket.socket] = []
        with pytest.raises(AssertionError, match=r"descriptors.*socket.*the leaker"), assert_baseline(timeout=0.02):
            opened.append(socket.socket())
            call = background(release.wait, "the leaker")
        opened.pop().close()
        release.set()
        call.result()

    def test_the_baseline_is_waited_for(self) -> None:
        release = threading.Event()
        with assert_baseline():
            call = background(release.wait)
            timer = threading.Timer(0.02, release.set)
            timer.start()
        assert call.result()

    def test_children(self) -> None:
        assert children() == {}
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
            assert any_child()
            wait_until(lambda: "input()" in children()[child.pid], "the child's program")
            assert list(children()) == [child.pid]
        assert not any_child()

    def test_run_python(self) -> None:
        run = run_python("import sys, os; print(sys.argv[1], os.environ['COLOUR'])", "x", environment={"COLOUR": "red"})
        assert (run.returncode, run.stdout, run.stderr) == (0, "x red\n", "")
        assert run_python("import warnings; warnings.warn('old')").returncode == 1


class TestFixtures:
    def test_the_seed_repeats_the_numbers(
        self, rng: random.Random, request: pytest.FixtureRequest, pytestconfig: pytest.Config
    ) -> None:
        header = pytestconfig.hook.pytest_report_header(config=pytestconfig, start_path=None)
        seeds = [part for line in header if "BEANPOOL_SEED=" in str(line) for part in [str(line).partition("SEED=")[2]]]
        assert random.Random(f"{int(seeds[0])} {request.node.nodeid}").random() == rng.random()

    def test_leftovers_fail_the_test(self, tmp_path: Path) -> None:
        here = Path(__file__).parent
        fixtures = (here / "conftest.py").read_text().replace("_END_WITHIN = 2.0", "_END_WITHIN = 0.1")
        (tmp_path / "conftest.py").write_text(fixtures)
        (tmp_path / "test_leftovers.py").write_text(
            """
import atexit, subprocess, threading

def test_thread():
    threading.Thread(target=threading.Event().wait, name="beanpool monitor", daemon=True).start()

def test_process():
    child = subprocess.Popen(["sleep", "60"])
    atexit.register(child.wait)
    atexit.register(child.kill)

def test_clean():
    pass
"""
        )
        run = run_python(
            "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))",
            *("--import-mode=importlib", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", str(tmp_path)),
            environment={"PYTHONPATH": os.pathsep.join([str(here), os.environ.get("PYTHONPATH", "")])},
        )
        assert "3 passed, 2 errors" in run.stdout, run.stdout + run.stderr
        assert "the test left behind: {'threads': ['beanpool monitor']}" in run.stdout
        assert re.search(r"the test left behind: \{'processes': \{\d+: 'sleep 60'\}\}", run.stdout)
