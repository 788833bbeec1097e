"""The cases, by the names that the command line takes."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.bench import Bench
from benchmarks.cases.batches import put_many, reserve_delete_many
from benchmarks.cases.celery_brokers import tasks as celery_tasks
from benchmarks.cases.dramatiq_brokers import messages as dramatiq_messages
from benchmarks.cases.fail_over import first_put_after_kill
from benchmarks.cases.latency import wake_up
from benchmarks.cases.many_servers import cost_of_a_put
from benchmarks.cases.memory import idle_connection
from benchmarks.cases.metrics import cost_of_metrics
from benchmarks.cases.one_down import batches_with_one_down
from benchmarks.cases.single_commands import (
    connection_put,
    connection_reserve_delete,
    pool_put_key,
    pool_put_keyless,
    pool_reserve_delete,
    put_step_by_step,
)
from benchmarks.cases.threads import eight_threads, one_to_many_threads
from benchmarks.cases.workers import empty_handlers
from benchmarks.result import Result

CASES: dict[str, Callable[[Bench], Result]] = {
    "connection-put": connection_put,
    "connection-reserve-delete": connection_reserve_delete,
    "pool-put-keyless": pool_put_keyless,
    "pool-put-key": pool_put_key,
    "pool-reserve-delete": pool_reserve_delete,
    "put-step-by-step": put_step_by_step,
    "put-many": put_many,
    "reserve-delete-many": reserve_delete_many,
    "one-down": batches_with_one_down,
    "eight-threads": eight_threads,
    "threads": one_to_many_threads,
    "many-servers": cost_of_a_put,
    "wake-up": wake_up,
    "fail-over": first_put_after_kill,
    "worker": empty_handlers,
    "dramatiq": dramatiq_messages,
    "celery": celery_tasks,
    "metrics": cost_of_metrics,
    "memory": idle_connection,
}
