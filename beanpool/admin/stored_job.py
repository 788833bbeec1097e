"""A job that was looked at, and the line of JSON that stands for it in an export."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from beanpool.connection import JobId
from beanpool.errors import UnexpectedResponse
from beanpool.protocol import DEFAULT_PRIORITY, DEFAULT_TTR, encode_put

_NUMBERS = ("pri", "ttr", "time-left", "age", "reserves", "timeouts", "releases", "buries", "kicks")


@dataclasses.dataclass(frozen=True, slots=True)
class StoredJob:
    """A job as its server has it, body and all. It is not reserved.

    :param id: its id, with its server; ``pool.delete(job.id)`` and the like take it.
    :param tube: its tube.
    :param state: ``ready``, ``delayed``, ``buried`` or ``reserved``.
    :param data: its body.
    :param priority: 0 (most urgent) to 2**32 - 1.
    :param ttr: how long a worker may take (seconds).
    :param time_left: how long before it becomes ready, or, if it is reserved, its TTR ends (whole seconds, rounded
        down).
    :param age: since it was put (seconds).
    :param reserves: how often it was reserved; the others are what became of that.
    """

    id: JobId
    tube: str
    state: str
    data: bytes = dataclasses.field(repr=False)
    priority: int
    ttr: int
    time_left: int
    age: int
    reserves: int
    timeouts: int
    releases: int
    buries: int
    kicks: int

    @property
    def server(self) -> str:
        """The address of its server."""
        return self.id.server

    @property
    def delay(self) -> int:
        """The delay (whole seconds) with which a copy becomes ready when this job does, or up to a second later."""
        # The server rounds down what is left, and a job must not come before its time.
        return self.time_left + 1 if self.state == "delayed" else 0

    def as_record(self) -> dict[str, Any]:
        """It as one writes it into a line of JSON: what ``beanpool take --json`` writes, and more."""
        record: dict[str, Any] = {
            "server": self.id.server,
            "id": int(self.id),
            "tube": self.tube,
            "state": self.state,
            "priority": self.priority,
            "ttr": self.ttr,
            "delay": self.delay,
            "age": self.age,
        }
        try:
            record["body"] = self.data.decode()
        except UnicodeDecodeError:
            record["body_base64"] = base64.b64encode(self.data).decode()
        return record


def stored_job(origin: tuple[str, str], data: bytes, statistics: Mapping[str, Any]) -> StoredJob:
    """Build it of a body and the answer to ``stats-job``.

    :param origin: the server and its process.
    :raises UnexpectedResponse: if a number in the answer is none.
    """
    numbers: list[Any] = [statistics.get(name) for name in _NUMBERS]
    jid = statistics.get("id")
    if type(jid) is not int or not all(type(number) is int for number in numbers):
        raise UnexpectedResponse(
            *("stats-job", "OK", []),
            message=f"{origin[0]} answered stats-job without the numbers that belong there",
            server=origin[0],
        )
    return StoredJob(JobId(jid, *origin), str(statistics["tube"]), str(statistics["state"]), data, *numbers)


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """A job that is to be made: what a line of an export says."""

    tube: str | None
    data: bytes = dataclasses.field(repr=False)
    priority: int
    delay: int
    ttr: int
    buried: bool


def read_record(line: str | bytes) -> Record:
    """Read a line of an export, or of ``beanpool take --json``: all but the body may be missing.

    :raises ValueError: if it cannot be one; the text says why, and does not hold the body.
    """
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("it is no JSON") from None
    if not isinstance(fields, dict):
        raise ValueError("it is no JSON object")
    tube = fields.get("tube")
    if not (tube is None or isinstance(tube, str)):
        raise ValueError("its tube is no text")
    data = _body(fields)
    priority, delay = fields.get("priority", DEFAULT_PRIORITY), fields.get("delay", 0)
    ttr = fields.get("ttr", DEFAULT_TTR)
    try:
        encode_put(b"", priority, delay, ttr)
    except TypeError as error:
        raise ValueError(str(error)) from None
    return Record(tube, data, priority, delay, ttr, fields.get("state") == "buried")


def _body(fields: Mapping[str, Any]) -> bytes:
    body, encoded = fields.get("body"), fields.get("body_base64")
    if isinstance(body, str) and encoded is None:
        try:
            return body.encode()
        except UnicodeEncodeError:
            raise ValueError("its body cannot be UTF-8") from None
    if not isinstance(encoded, str) or body is not None:
        raise ValueError("it needs a body, or a body_base64, that is a text")
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("its body_base64 is no Base64") from None
