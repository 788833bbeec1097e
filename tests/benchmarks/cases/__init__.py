"""The cases, by the names that the command line takes."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.bench import Bench
from benchmarks.cases.single_commands import (
    connection_put,
    connection_reserve_delete,
    pool_put_key,
    pool_put_keyless,
    pool_reserve_delete,
)
from benchmarks.result import Result

CASES: dict[str, Callable[[Bench], Result]] = {
    "connection-put": connection_put,
    "connection-reserve-delete": connection_reserve_delete,
    "pool-put-keyless": pool_put_keyless,
    "pool-put-key": pool_put_key,
    "pool-reserve-delete": pool_reserve_delete,
}
