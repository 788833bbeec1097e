"""The tasks that Celery workers of tests run. Each run that ends well leaves a line in a book: one write, one line."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from celery import Celery, chord, group
from celery.exceptions import Reject

from beanpool.contrib.kombu import register

register()

app = Celery("tests", broker=os.environ.get("TEST_BROKER"), backend=os.environ.get("TEST_BACKEND"))
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_transport_options={"health_interval": 0.5},
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=4,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_hijack_root_logger=False,
    # How long Celery waits for a process that is gone (seconds); 10 if not told otherwise.
    worker_lost_wait=0.5,
)


def note(*words: object) -> None:
    """Write a line into the book."""
    book = os.open(os.environ["TEST_BOOK"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(book, (" ".join(map(str, words)) + "\n").encode())
    finally:
        os.close(book)


def is_first(name: str) -> bool:
    """Whether nobody has asked for this name before."""
    try:
        os.close(os.open(f"{os.environ['TEST_BOOK']}.{name}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


@app.task(name="work")
def work(name: str, seconds: float = 0.004) -> None:
    """What most tasks do."""
    time.sleep(seconds)
    note(name)


@app.task(name="again", bind=True)
def again(self: Any, name: str, countdown: float = 1) -> None:
    """Fails the first time, and asks for another try."""
    if not self.request.retries:
        raise self.retry(countdown=countdown)
    note(name)


@app.task(name="reject")
def reject(name: str) -> None:
    """Cannot be done, ever."""
    note("rejected", name)
    raise Reject("no", requeue=False)


@app.task(name="die")
def die(name: str) -> None:
    """Takes its process with it, the first time."""
    if is_first(name):
        os.kill(os.getpid(), signal.SIGKILL)
    note(name)


@app.task(name="add")
def add(x: int, y: int) -> int:
    """For results."""
    return x + y


@app.task(name="total")
def total(numbers: list[int], name: str) -> int:
    """The end of a chord."""
    note(name, sum(numbers))
    return sum(numbers)


@app.task(name="follow")
def follow(name: str) -> None:
    """Sends another task, from a worker."""
    app.send_task("work", (name,))


@app.task(name="begin_chord")
def begin_chord(name: str) -> None:
    """A chord of four, from a worker."""
    chord(group(add.s(number, number) for number in range(4)))(total.s(name))
