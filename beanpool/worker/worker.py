"""The worker: tubes and their handlers, threads that work on them, and an end that loses nothing."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from beanpool.events import Event
from beanpool.manager import PoolManager
from beanpool.reserve import Order
from beanpool.validation import check_pause, check_wait
from beanpool.worker.backoff import Backoff
from beanpool.worker.batch import BatchSize
from beanpool.worker.breaker import Breaker
from beanpool.worker.crew import Crew, Stop
from beanpool.worker.runner import Runner
from beanpool.worker.settings import Settings, check_is
from beanpool.worker.stop_signals import StopSignals
from beanpool.worker.supervisor import Supervisor
from beanpool.worker.tally import Tally
from beanpool.worker.task import Duty, Handler, Task, name_of

_AnyHandler = TypeVar("_AnyHandler", bound=Handler)
_numbers = itertools.count(1)


class Worker:
    """Takes jobs of tubes from a pool and calls a handler for each, in threads, until it is told to stop.

    A handler that returns has its job deleted. If it raises, the job waits on its server and is tried again, until its
    tries are used up and it is buried. What a handler may assume is in ``docs/workers.md``: above all, that its job may
    run more than once.

    A worker runs once. The pool stays open at its end.

    :param pool: where the jobs come from. Each thread needs a connection to each server for its job, and a second one
        where it takes batches.
    :param threads: how many jobs, or batches, are worked on at the same time.
    :param grace: how long running jobs may take once the worker is told to stop (seconds); then they are given back.
    :param retry: how often jobs are tried, and how long they wait in between.
    :param keep_alive: whether jobs are touched while they run, so that their TTR does not end.
    :param batch: how many jobs a thread takes at once (1 to 4096), or ``"auto"``: many where handlers are short. The
        jobs of a batch run one after another, and are deleted together.
    :param max_deliveries: a job that was reserved more often is buried without a call of its handler; None for any
        number. It also finds jobs that kill their process, which no other count does. Reservations that came to nothing
        count too, as those of a wait that was cancelled, so let it be generous. It costs a round trip for each
        job or batch.
    :param max_jobs: how many jobs are taken before the worker stops by itself; None for any number.
    :param max_time: after how many seconds it stops by itself; None for never.
    :param max_memory: beyond how many bytes of memory it stops by itself, with exit code 12; None for any number.
    :param stop_when_empty: whether it stops when no tube has a ready job, and all servers have said so.
    :param order: ``"fair"`` takes from the tubes in rotation, ``"strict"`` from the first one that has jobs, as they
        were added, ``"any"`` from whichever the server gives: with several tubes that costs a round trip for each job.
        The first two keep a connection waiting for each tube on each server.
    :param breaker: leaves a tube alone whose handlers fail one after another; None for never.
    :param heartbeat_file: a file that is touched every few seconds, as long as any thread can take a job.
    :raises ValueError: for an option that cannot be; :raises TypeError: for one of a wrong type.
    """

    def __init__(
        self,
        pool: PoolManager[Any],
        *,
        threads: int = 8,
        grace: float = 30.0,
        retry: Backoff = Backoff(),  # noqa: B008  # Frozen.
        keep_alive: bool = True,
        batch: BatchSize = 1,
        max_deliveries: int | None = None,
        max_jobs: int | None = None,
        max_time: float | None = None,
        max_memory: int | None = None,
        stop_when_empty: bool = False,
        order: Order = "fair",
        breaker: Breaker | None = None,
        heartbeat_file: str | os.PathLike[str] | None = None,
    ) -> None:
        check_is("pool", pool, PoolManager)
        self.pool = pool
        self._settings = Settings(
            threads=threads,
            grace=grace,
            retry=retry,
            keep_alive=keep_alive,
            batch=batch,
            max_deliveries=max_deliveries,
            max_jobs=max_jobs,
            max_time=max_time,
            max_memory=max_memory,
            stop_when_empty=stop_when_empty,
            order=order,
            breaker=breaker,
            heartbeat_file=heartbeat_file,
        )
        self._tasks: dict[str, Task] = {}
        self._listeners: list[Callable[[Event], Any]] = []
        self._lock = threading.Lock()
        self._crew: Crew | None = None
        self._supervisor: Supervisor | None = None

    def __repr__(self) -> str:
        return f"<Worker of {', '.join(self._tasks) or 'no tube'} on {self.pool!r}>"

    # What it does.

    def task(
        self,
        tube: str,
        *,
        concurrency: int | None = None,
        time_limit: float | None = None,
        retry: Backoff | None = None,
        batch: BatchSize | None = None,
        breaker: Breaker | None = None,
    ) -> Callable[[_AnyHandler], _AnyHandler]:
        """Decorate the function that is called with each job of `tube`; see :meth:`add`."""

        def add(handler: _AnyHandler) -> _AnyHandler:
            self.add(
                tube,
                handler,
                concurrency=concurrency,
                time_limit=time_limit,
                retry=retry,
                batch=batch,
                breaker=breaker,
            )
            return handler

        return add

    def add(
        self,
        tube: str,
        handler: Handler,
        *,
        concurrency: int | None = None,
        time_limit: float | None = None,
        retry: Backoff | None = None,
        batch: BatchSize | None = None,
        breaker: Breaker | None = None,
    ) -> None:
        """Call `handler` with each job of `tube`.

        :param handler: called with the job, in one of the worker's threads; what it returns is of no account.
        :param concurrency: how many threads may have jobs of the tube at once; None for all.
        :param time_limit: after how many seconds :class:`TimeLimitExceeded` is raised in the handler's thread, and its
            job is touched no more; None for never.
        :param retry: as the worker's; None for that, and so for `batch` and `breaker`.
        :raises ValueError: for an option that cannot be, or a tube that has a handler.
        :raises TypeError: for an option of a wrong type, or a handler that cannot be called with one argument.
        :raises RuntimeError: if the worker was started.
        """
        added = Task(tube, handler, concurrency, time_limit, retry, batch, breaker)
        with self._lock:
            self._refuse_once_started()
            if tube in self._tasks:
                raise ValueError(f"tube {tube} has a handler already: {name_of(self._tasks[tube].handler)}")
            self._tasks[tube] = added

    @property
    def settings(self) -> Settings:
        """The options of the constructor, as attributes of the same names."""
        return self._settings

    @property
    def tubes(self) -> tuple[str, ...]:
        """The tubes that have handlers, in the order in which these were added."""
        return tuple(self._tasks)

    def configure(self, settings: Settings | None = None, *, tubes: Iterable[str] | None = None) -> None:
        """Change what was said to the constructor, as a command line does that is given a finished worker.

        :param settings: those of :attr:`settings`, with changes: ``dataclasses.replace(worker.settings, threads=2)``.
        :param tubes: leave out all tubes but these.
        :raises ValueError: for a tube without a handler.
        :raises RuntimeError: if the worker was started.
        """
        with self._lock:
            self._refuse_once_started()
            if tubes is not None:
                chosen = tuple(tubes)
                for tube in chosen:
                    if tube not in self._tasks:
                        raise ValueError(f"tube {tube} has no handler; there are: {', '.join(self._tasks) or 'none'}")
                self._tasks = {tube: self._tasks[tube] for tube in chosen}
            if settings is not None:
                check_is("settings", settings, Settings)
                self._settings = settings

    def _refuse_once_started(self) -> None:
        if self._crew is not None:
            raise RuntimeError("the worker was started before; make another one")

    # Its life.

    def run(self) -> int:
        """Work until the end, and return the exit code for the process: ``raise SystemExit(worker.run())``.

        SIGTERM and SIGINT stop the worker: no more jobs are taken, and running ones may take `grace` seconds more. A
        second one has all of them given back at once. In another thread than the main one no signal is handled.

        :returns: 0, or 12 if it stopped because of `max_memory`, or 75 if jobs were given back. Their handlers may
            still run, in threads that end with the process.
        :raises ValueError: if no tube has a handler.
        :raises RuntimeError: if the worker was started before.
        :raises OSError: if the heartbeat file cannot be written.
        """
        with StopSignals(lambda before: self.stop(0 if before else None)) as signals:
            return signals.wait(self._start().exit_code)

    def start(self) -> None:
        """Start the threads; see :meth:`run`, which also waits for their end."""
        self._start()

    def _start(self) -> Supervisor:
        with self._lock:
            self._refuse_once_started()
            if not self._tasks:
                raise ValueError("no tube has a handler: use worker.add() or @worker.task()")
            settings = self._settings
            if settings.heartbeat_file is not None:
                Path(settings.heartbeat_file).touch()
            duties = {tube: Duty.of(task, settings) for tube, task in self._tasks.items()}
            crew = Crew(self.pool, duties, settings, f"beanpool-worker-{next(_numbers)}")
            for listener in self._listeners:
                crew.finisher.hear(listener)
            runners = [Runner(crew, number) for number in range(1, settings.threads + 1)]
            supervisor = Supervisor(crew, runners)
            self._crew, self._supervisor = crew, supervisor
        if any(duty.batches is not None for duty in duties.values()):
            crew.flusher.start()
        for runner in runners:
            runner.start()
        supervisor.start()
        if crew.drained is not None:
            crew.drained.start()
        return supervisor

    def stop(self, grace: float | None = None) -> None:
        """Take no more jobs, and let running ones finish; returns at once. May be called by a signal handler.

        :param grace: how long they may take until they are given back (seconds); None for the worker's. A later call
            can shorten it.
        """
        seconds = self._settings.grace if grace is None else check_pause("grace", grace)
        crew = self._crew
        if crew is not None:
            crew.mailbox.put(Stop(seconds))

    def join(self, timeout: float | None = None) -> int | None:
        """Wait for the end of a worker that was started; returns its exit code (see :meth:`run`).

        :param timeout: how long to wait (seconds); None for as long as it takes.
        :returns: None if it has not ended in time.
        :raises RuntimeError: if the worker was not started.
        """
        supervisor = self._supervisor
        if supervisor is None:
            raise RuntimeError("the worker was not started")
        try:
            return supervisor.exit_code.result(check_wait("timeout", timeout))
        except TimeoutError:
            return None

    # What can be seen of it.

    def add_listener(self, listener: Callable[[Event], Any]) -> None:
        """Call `listener` with every event of the worker: :class:`JobStarted`, :class:`JobDone` and so on.

        It is called in the thread in which the event happens; what it raises is logged and harms nobody.

        :raises TypeError: if it cannot be called.
        :raises RuntimeError: if the worker was started.
        """
        if not callable(listener):
            raise TypeError(f"a listener must be callable, not {type(listener).__name__}")
        with self._lock:
            self._refuse_once_started()
            self._listeners.append(listener)

    @property
    def stopping(self) -> bool:
        """Whether it takes no jobs: it was told to stop, has ended, or was not started."""
        return self._crew is None or self._crew.stopping

    @property
    def stuck(self) -> bool:
        """Whether no thread can take a job any more: each has a handler that runs on although its time limit is over.

        Such a process is to be ended from outside; the heartbeat file is not touched any more.
        """
        return self._supervisor is not None and self._supervisor.is_stuck

    def get_stats(self) -> dict[str, int]:
        """How many jobs were taken, done, retried, buried, lost and given back, and how many calls of handlers failed.

        A job that is tried again is taken again.
        """
        crew = self._crew
        return Tally().snapshot() if crew is None else crew.finisher.tally.snapshot()
