"""Who tests the tests: known-bad variants of beanpool, each of which some test has to catch.

``python tests/chaos/mutants.py [name ...]`` applies them one at a time to a copy of the installed package, runs the
tests that ought to notice against that copy, and prints a table. A text that is to be replaced and is not there (any
more) is an error: a mutant that no longer fits the code proves nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_LONGEST = 180.0
_TESTS_FAILED = 1


@dataclasses.dataclass(frozen=True)
class Edit:
    """An exact replacement in one file of the package; the old text is there exactly once."""

    file: str
    old: str
    new: str


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A bad variant.

    :param harm: what it would do to users.
    :param tests: which tests have to notice: node ids of pytest.
    """

    name: str
    harm: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]


_SCENARIOS = "tests/chaos/test_scenarios.py::"
_TOXICS = "tests/chaos/test_toxics.py::test_every_operation"
_AMBIGUOUS = "tests/functional/put/failover/test_ambiguous.py::TestAmbiguous::"

MUTANTS = (
    Mutant(
        "Exception for BaseException, in a command",
        "after Ctrl-C the next command gets the reply of the one before",
        (
            Edit(
                "net/channel.py",
                "self._read_on(command, data, deadline)\n        except BaseException as error:\n",
                "self._read_on(command, data, deadline)\n        except Exception as error:\n",
            ),
            Edit(
                "net/stream.py",
                'self.close("the command before was interrupted in its middle")',
                "self.state = ChannelState.IN_STEP",
            ),
        ),
        (_SCENARIOS + "test_an_interrupt_during_a_slow_reply_costs_that_connection_and_nothing_else",),
    ),
    Mutant(
        "a thread that was interrupted in a wait is taken to be there",
        "after Ctrl-C in a reserve nobody leads the wait: all later reserves sleep",
        (Edit("reserve/caller.py", "return self.presence.locked()", "return True"),),
        (_SCENARIOS + "test_an_interrupted_reserve_leaves_its_place_to_others",),
    ),
    Mutant(
        "a connection is put back after a timeout",
        "the late reply is given to the next command",
        (
            Edit(
                "net/channel.py",
                "self._read_on(command, data, deadline)\n        except BaseException as error:\n"
                "            self._fail(error)\n",
                "self._read_on(command, data, deadline)\n        except BaseException as error:\n"
                "            if isinstance(error, CommandTimeout):\n"
                "                self.state = ChannelState.IN_STEP\n"
                "            else:\n"
                "                self._fail(error)\n",
            ),
            Edit(
                "put/failover.py",
                "    except BaseException as error:\n        pool.checkin(connection, broken=error)\n        raise\n"
                "    pool.checkin(connection)\n    return jid\n",
                "    except BaseException as error:\n"
                "        pool.checkin(connection)\n        raise\n"
                "    pool.checkin(connection)\n    return jid\n",
            ),
        ),
        (_SCENARIOS + "test_a_late_reply_is_never_given_to_the_next_command",),
    ),
    Mutant(
        "an ambiguous put is sent again and not declared",
        "jobs run twice, and nobody was told that they may",
        (
            Edit(
                "put/failover.py",
                "jid.maybe_duplicate = is_duplicate(named(put.attempts))",
                "jid.maybe_duplicate = False",
            ),
        ),
        (f"{_TOXICS}[reset_peer(0) downstream]",),
    ),
    Mutant(
        "no look at the process before a recovered delete",
        "after a restart somebody else's job is deleted",
        (
            Edit(
                "server/recovery.py",
                "    if connection.instance != instance:\n",
                "    if False:\n",
            ),
        ),
        (_SCENARIOS + "test_a_restarted_server_keeps_jobs_that_look_like_the_old_ones",),
    ),
    Mutant(
        "a failure after sendall taken as not sent",
        "a put that is stored is put again, and said to be there once",
        (
            Edit("net/stream.py", "may_have_taken_effect=waiting", "may_have_taken_effect=False"),
            Edit(
                "net/stream.py",
                "            phase=Phase.WAITING,\n            may_have_taken_effect=True,\n",
                "            phase=Phase.WAITING,\n            may_have_taken_effect=False,\n",
            ),
        ),
        (_AMBIGUOUS + "test_resent_and_declared",),
    ),
    Mutant(
        "release instead of half-close",
        "a connection that still waits takes jobs that nobody works on",
        (
            Edit(
                "server/connection_pool.py",
                "        channel = connection.half_close()\n"
                "        self._free_place(connection)\n"
                "        return channel\n",
                "        connection.channel._due.clear()\n"
                "        connection.channel.state = type(connection.channel.state).IN_STEP\n"
                "        self.checkin(connection)\n"
                "        return None\n",
            ),
        ),
        (_SCENARIOS + "test_a_cancelled_wait_takes_no_job",),
    ),
    Mutant(
        "a lock is held while connecting",
        "one silent server delays the calls to all others",
        (
            Edit(
                "server/connection_pool.py",
                "_TRUSTED_IDLE_SECONDS = 0.01\n",
                "_TRUSTED_IDLE_SECONDS = 0.01\n_CONNECTING = __import__('threading').Lock()\n",
            ),
            Edit(
                "server/connection_pool.py",
                "                connection.open(until)\n",
                "                with _CONNECTING:\n                    connection.open(until)\n",
            ),
        ),
        (_SCENARIOS + "test_a_silent_server_delays_no_connection_to_another",),
    ),
    Mutant(
        "a connect is taken for health",
        "a server that accepts and never answers gets jobs again and again",
        (
            Edit(
                "cluster/checks.py",
                "        if reply is None:\n            return False\n",
                "        if reply is None and not self._connection.connecting:\n"
                "            self.member.works(self._connection.asked_at)\n"
                "            return True\n"
                "        if reply is None:\n            return False\n",
            ),
        ),
        (_SCENARIOS + "test_a_black_hole_is_found_and_stays_found",),
    ),
    Mutant(
        "no jitter between retries of puts",
        "callers who failed together come back together",
        (Edit("policy/retry.py", "tenacity.wait_random_exponential(", "tenacity.wait_exponential("),),
        (_SCENARIOS + "test_retries_of_puts_are_spread",),
    ),
    Mutant(
        "no jitter between probes",
        "all clients of a dead server knock at the same moment",
        (Edit("server/member.py", "jitter=random.random()", "jitter=1.0"),),
        (_SCENARIOS + "test_probes_of_a_dead_server_are_spread",),
    ),
    Mutant(
        "a put that may be stored is reported as refused",
        "the caller puts the job again, and it runs twice",
        (
            Edit(
                "policy/put_outcome.py",
                "            return _ambiguous(server, error, attempts, closing)\n",
                "            break\n",
            ),
        ),
        (_AMBIGUOUS + "test_a_later_refusal_takes_nothing_back",),
    ),
    Mutant(
        "a job's command does not look whether the job still has its connection",
        "a command of a job that is finished is sent over a connection that another caller has by now",
        (
            Edit(
                "connection/job.py",
                "                if self._state is not _RESERVED or self._connection is not connection:\n",
                "                if False:\n",
            ),
        ),
        (
            "tests/functional/connection/test_turns.py::TestWhoseConnectionItIs::test_a_command_that_waits_while_a_batch_ends_its_job_is_not_sent",
        ),
    ),
    Mutant(
        "a wait begins anew with each signal",
        "a program with a timer or a profiler waits for a silent server for ever",
        (
            Edit(
                "net/stream.py",
                "        self._patient.settimeout(self._patience)\n",
                "        microseconds = divmod(int(self._patience * 1e6), 10**6)\n"
                "        patience = b''.join(number.to_bytes(8, 'little') for number in microseconds)\n"
                "        self._patient.settimeout(None)\n"
                "        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)\n",
            ),
        ),
        ("tests/faults/test_signals.py::test_a_put_to_a_silent_server",),
    ),
    Mutant(
        "an ambiguous put is sent again although the caller said no",
        "on_ambiguous='raise' does nothing",
        (Edit("policy/put_outcome.py", "return not resend or closing", "return closing"),),
        (_AMBIGUOUS + "test_raised",),
    ),
)


class DoesNotFit(Exception):
    """The text that a mutant replaces is not in the code exactly once."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the tests said of a mutant."""

    mutant: Mutant
    caught_by: str
    """The tests that failed; empty if it went unnoticed."""
    because: str
    """What the first of them said, in a line."""
    seconds: float
    output: str


def package_folder() -> Path:
    """The folder of the package that tests import, without importing it."""
    spec = importlib.util.find_spec("beanpool")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def apply(mutant: Mutant, package: Path) -> None:
    """Change a copy of the package.

    :raises DoesNotFit: if a text is not there, or more than once.
    """
    for edit in mutant.edits:
        file = package / edit.file
        source = file.read_text()
        if source.count(edit.old) != 1:
            raise DoesNotFit(
                f"{mutant.name}: {edit.file} holds this text {source.count(edit.old)} times, not once:\n{edit.old}"
            )
        file.write_text(source.replace(edit.old, edit.new))


@contextlib.contextmanager
def copy_of_package() -> Iterator[Path]:
    """A copy of the package, in a folder of its own for the path."""
    with tempfile.TemporaryDirectory(prefix="beanpool-mutant-") as folder:
        package = Path(folder, "beanpool")
        shutil.copytree(package_folder(), package, ignore=shutil.ignore_patterns("__pycache__"))
        yield package


def run_tests(package: Path, tests: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run tests on this copy, until the first one fails. A server that is not there is a failure."""
    path = os.pathsep.join(filter(None, (str(package.parent), os.environ.get("PYTHONPATH"))))
    variables = {
        "PYTHONPATH": path,
        "PYTHONSAFEPATH": "1",
        "BEANPOOL_REQUIRE_SERVERS": "1",
        # To load plugins that these tests do not need takes longer than many of the tests.
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    dropped = ("BEANPOOL_EXPECT_INSTALLED", "BEANPOOL_CHAOS_REPORT", "PYTEST_ADDOPTS")
    environment = {name: value for name, value in os.environ.items() if name not in dropped} | variables
    used = subprocess.run(
        [sys.executable, "-c", "import importlib.util; print(importlib.util.find_spec('beanpool').origin)"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if Path(used.stdout.strip()).parent != package:
        raise DoesNotFit(f"the copy is not what gets imported, but {used.stdout.strip() or used.stderr}")
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "pytest_timeout", "-q", "-x", "-p", "no:cacheprovider"),
            *("--timeout", "60", "--tb=line", *tests),
        ],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=_LONGEST,
    )


def check_sound(mutants: Sequence[Mutant]) -> None:
    """Assert that the tests pass on the package as it is: else their failing would mean nothing."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    with copy_of_package() as package:
        done = run_tests(package, tests)
    if done.returncode != 0:
        raise DoesNotFit(f"the tests fail without any mutant:\n{done.stdout}{done.stderr}")


def try_out(mutant: Mutant) -> Verdict:
    """Run a mutant's tests on it."""
    started = time.monotonic()
    with copy_of_package() as package:
        apply(mutant, package)
        done = run_tests(package, mutant.tests)
    if done.returncode not in (0, _TESTS_FAILED):
        raise DoesNotFit(f"{mutant.name}: pytest ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    failed = re.findall(r"^(?:FAILED|ERROR) \S*?::(\w+(?:\[[^\n]*?\])?)(?: - |$)", done.stdout, re.MULTILINE)
    said = re.search(r"^\S+:\d+: (.*)$", done.stdout, re.MULTILINE)
    caught_by = ", ".join(dict.fromkeys(failed)) or ("a test" if done.returncode else "")
    because = said.group(1)[:160] if said else ""
    return Verdict(mutant, caught_by, because, time.monotonic() - started, done.stdout)


def table(verdicts: Sequence[Verdict]) -> str:
    """The verdicts, as Markdown."""
    rows = [
        f"| {verdict.mutant.name} | {verdict.mutant.harm} | "
        + (f"`{verdict.caught_by}` |" if verdict.caught_by else "**nothing** |")
        for verdict in verdicts
    ]
    return "\n".join(["| variant | what users would get | caught by |", "|---|---|---|", *rows])


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="name", help="parts of the names of those to try (default: all)")
    names = parser.parse_args().names
    mutants = [mutant for mutant in MUTANTS if not names or any(name in mutant.name for name in names)]
    verdicts = []
    try:
        check_sound(mutants)
        for mutant in mutants:
            verdicts.append(try_out(mutant))
            print(f"{verdicts[-1].seconds:5.1f} s  {mutant.name}: {verdicts[-1].caught_by or 'NOT CAUGHT'}")
            print(f"         {verdicts[-1].because}", flush=True)
    except DoesNotFit as error:
        print(error)
        return 2
    print(table(verdicts))
    missed = [verdict for verdict in verdicts if not verdict.caught_by]
    print(f"{len(verdicts) - len(missed)} of {len(verdicts)} caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
