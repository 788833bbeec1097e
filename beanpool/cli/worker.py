"""``beanpool worker``: a program that works off tubes, made of a function."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from typing import Any

from beanpool.cli.exits import CommandError, Exit
from beanpool.cli.pool import open_text_pool
from beanpool.cli.worker_health import watched
from beanpool.worker import Backoff, Breaker, Worker

_DEFAULT_CONNECTIONS = 32
_OF_ONE_NAME = ("threads", "grace", "batch", "max_deliveries", "max_jobs", "max_time", "order", "heartbeat_file")


def run(arguments: argparse.Namespace) -> int:
    """Run the worker to its end; returns its exit code."""
    target = _load(arguments.target)
    with _wrong_usage():
        worker = _adapted(target, arguments) if isinstance(target, Worker) else _made(target, arguments)
    if not arguments.verbose:
        # A job that fails must leave a trace. It does nothing where the module has configured logging itself.
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    with worker.pool, watched(worker, arguments.health):
        worker.pool.wait()
        with _unwritable():
            return worker.run()


def _load(text: str) -> Any:
    module, colon, name = text.partition(":")
    if not (module and colon and name):
        raise CommandError(f"{text!r} must be MODULE:NAME, such as tasks:send", code=Exit.USAGE)
    # As with "python -m": programs are started in the folder of their code.
    sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = "" if "importlib" in where.filename else f" ({where.filename}, line {where.lineno})"
        raise CommandError(
            f"cannot import {module}: {type(error).__name__}: {error}{place}", code=Exit.USAGE
        ) from error
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise CommandError(f"{module} has no {name}", code=Exit.USAGE) from None
    return found


def _made(handler: Any, arguments: argparse.Namespace) -> Worker:
    """A worker that calls `handler`."""
    if not arguments.tubes:
        raise ValueError(f"no tube to take jobs from: beanpool worker {arguments.target} TUBE...")
    concurrency = dict(arguments.concurrency or ())
    for tube in concurrency:
        if tube not in arguments.tubes:
            raise ValueError(f"--concurrency names tube {tube}, from which no jobs are taken")
    # Made first for its checks, which come before a pool is there.
    options = _options(arguments, Backoff())
    threads = options.get("threads", 8)
    pool = open_text_pool(arguments, max_connections=max(_DEFAULT_CONNECTIONS, 2 * threads))
    worker = Worker(pool, **options)
    for tube in arguments.tubes:
        worker.add(tube, handler, concurrency=concurrency.get(tube), time_limit=arguments.time_limit)
    return worker


def _adapted(worker: Worker, arguments: argparse.Namespace) -> Worker:
    """A worker that the module has made, with the options that were given here."""
    if arguments.url or arguments.timeout is not None:
        raise ValueError(f"{arguments.target} is a worker with a pool of its own: --url and --timeout cannot change it")
    if arguments.concurrency or arguments.time_limit is not None:
        raise ValueError(
            f"{arguments.target} is a worker: --concurrency and --time-limit are said where it adds its tubes"
        )
    settings = dataclasses.replace(worker.settings, **_options(arguments, worker.settings.retry))
    worker.configure(settings, tubes=arguments.tubes or None)
    if not worker.tubes:
        raise ValueError(f"{arguments.target} is a worker without any tube")
    return worker


def _options(arguments: argparse.Namespace, backoff: Backoff) -> dict[str, Any]:
    """What was given, by the names of the constructor's options."""
    options = {name: value for name in _OF_ONE_NAME if (value := getattr(arguments, name)) is not None}
    if arguments.memory is not None:
        options["max_memory"] = arguments.memory
    if arguments.stop_when_empty:
        options["stop_when_empty"] = True
    if arguments.breaker is not None:
        options["breaker"] = Breaker(after=arguments.breaker)
    given = {"tries": arguments.tries, "base": arguments.backoff, "cap": arguments.backoff_cap}
    changes = {name: value for name, value in given.items() if value is not None}
    if changes:
        options["retry"] = dataclasses.replace(backoff, **changes)
    return options


@contextlib.contextmanager
def _wrong_usage() -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError, RuntimeError) as error:
        raise CommandError(str(error), code=Exit.USAGE) from error


@contextlib.contextmanager
def _unwritable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CommandError(f"the heartbeat file cannot be written: {error}", code=Exit.USAGE) from error
