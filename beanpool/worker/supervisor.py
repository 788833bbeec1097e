"""The thread that ends a worker: when it is told to, and when a limit is reached."""

from __future__ import annotations

import enum
import logging
import math
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from beanpool.telemetry import log_safely
from beanpool.worker.crew import Crew, Notice, Stop
from beanpool.worker.finisher import log
from beanpool.worker.memory import resident_memory
from beanpool.worker.runner import Runner

LOOK_AT_MEMORY_EVERY = 1.0
BEAT_EVERY = 5.0
# What has only its delete left to do at the end of the grace gets so long for it (seconds).
_LAST_COMMANDS = 1.0
_monotonic = time.monotonic


class ExitCode(enum.IntEnum):
    """How a worker ended, as the exit code of its process."""

    DONE = 0
    MEMORY = 12
    GIVEN_BACK = 75


class Supervisor:
    """Reads the mailbox of a worker, looks at its limits, and says how it ended."""

    def __init__(self, crew: Crew, runners: Sequence[Runner]) -> None:
        self._crew = crew
        self._runners = runners
        self._settings = crew.settings
        self._thread = threading.Thread(target=self._run, name=f"{crew.name}-supervisor", daemon=True)
        self._ends_at = math.inf
        """When the worker begins to stop by itself (monotonic seconds)."""
        self._deadline = math.inf
        """When running jobs are given back, once it stops."""
        self._next_beat = self._next_memory = math.inf
        self._over_memory = False
        self.exit_code: Future[ExitCode] = Future()
        """How the worker ended, once it has."""

    def start(self) -> None:
        """Start the thread."""
        now = _monotonic()
        if self._settings.max_time is not None:
            self._ends_at = now + self._settings.max_time
        if self._settings.max_memory is not None:
            self._next_memory = now
        if self._settings.heartbeat_file is not None:
            self._next_beat = now
        self._thread.start()

    def _run(self) -> None:
        with self._crew.kept:
            while not self._all_ended and _monotonic() < self._deadline:
                self._read(self._look())
            if self._crew.drained is not None:
                self._crew.drained.stop()
            given_back = self._give_back()
            code = ExitCode.GIVEN_BACK if given_back else ExitCode.DONE
            counts = ", ".join(f"{what} {count}" for what, count in self._crew.finisher.tally.snapshot().items())
            log_safely(log, logging.INFO, "%s has ended: %s", self._crew.name, counts)
            self.exit_code.set_result(ExitCode.MEMORY if self._over_memory else code)
            # Handlers whose jobs were given back still have their time limits.
            self._deadline = self._next_beat = math.inf
            while not self._all_ended:
                self._read(self._look())

    @property
    def _all_ended(self) -> bool:
        return all(runner.ended for runner in self._runners)

    def _read(self, due: float) -> None:
        wait = due - _monotonic()
        try:
            notice = self._crew.mailbox.get(timeout=None if wait == math.inf else max(0.0, wait))
        except queue.Empty:
            return
        match notice:
            case Stop(grace):
                self._stop(grace, "it was told to")
            case Notice.DRAINED | Notice.EXHAUSTED | Notice.CLOSED:
                self._stop(self._settings.grace, notice.value)
            case Notice.LOOK | Notice.ENDED:
                pass

    def _stop(self, grace: float, why: str) -> None:
        now = _monotonic()
        if not self._crew.stopping:
            log_safely(log, logging.INFO, "%s stops: %s", self._crew.name, why)
        self._crew.stopping = True
        self._deadline = min(self._deadline, now + grace)
        for runner in self._runners:
            runner.wake()

    def _look(self) -> float:
        """Do what is due; returns when something will be (monotonic seconds)."""
        # A thread that begins something meanwhile finds that nobody will look again soon enough, and says so.
        self._crew.next_look = math.inf
        now = _monotonic()
        self._crew.next_look = min(runner.look(now) for runner in self._runners)
        if now >= self._next_beat:
            self._beat()
            self._next_beat = now + BEAT_EVERY
        if not self._crew.stopping:
            if now >= self._ends_at:
                self._stop(self._settings.grace, "its time is over")
            elif now >= self._next_memory:
                self._look_at_memory()
                self._next_memory = now + LOOK_AT_MEMORY_EVERY
        due = min(self._crew.next_look, self._next_beat, self._deadline)
        return due if self._crew.stopping else min(due, self._ends_at, self._next_memory)

    def _look_at_memory(self) -> None:
        most = self._settings.max_memory
        if most is not None and (used := resident_memory()) > most:
            self._over_memory = True
            self._stop(self._settings.grace, f"it has {used} bytes of memory, and {most} are allowed")

    @property
    def is_stuck(self) -> bool:
        """Whether no thread can take a job any more."""
        return all(runner.is_stuck for runner in self._runners)

    def _beat(self) -> None:
        # While no thread can take a job any more, this process is as good as dead.
        if self._settings.heartbeat_file is None or self.is_stuck:
            return
        try:
            Path(self._settings.heartbeat_file).touch()
        except OSError as error:
            log_safely(log, logging.ERROR, "%s: the heartbeat cannot be written: %s", self._crew.name, error)

    def _give_back(self) -> bool:
        """Take from the threads what they still have in hand; returns whether that was anything."""
        withdrawn = [(runner, *runner.hand.withdraw()) for runner in self._runners]
        # What is done must be deleted before the connections are closed that it came from.
        self._crew.flusher.stop(_LAST_COMMANDS)
        given_back = False
        for runner, at_work, rest in withdrawn:
            if at_work is not None or rest:
                self._crew.finisher.give_back(runner.hand.tube, at_work, rest, runner.hand.began)
                given_back = True
        end = _monotonic() + _LAST_COMMANDS
        for runner, at_work, _ in withdrawn:
            if at_work is None:
                runner.join(max(0.0, end - _monotonic()))
        return given_back
