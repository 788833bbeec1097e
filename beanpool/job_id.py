"""The name of a stored job: its id, and the server process that gave it."""

from __future__ import annotations

from typing import Any


class JobId(int):
    """A job's id, which is an ``int``, together with where it is worth something.

    Ids of different servers collide, and a server that was restarted may use an id again; so commands on a
    ``JobId`` go to its server only, and only while that is the same process.

    :ivar server: the server's address.
    :ivar instance: the ``id`` of the server process.
    :ivar maybe_duplicate: whether an attempt before may have stored the same body too.
    :ivar buried: whether the server had no memory to queue the job, and has buried it.
    """

    server: str
    instance: str
    maybe_duplicate: bool = False
    buried: bool = False

    def __new__(
        cls, value: int, server: str, instance: str, *, maybe_duplicate: bool = False, buried: bool = False
    ) -> JobId:
        """Name the job `value` of `server`, given by its process `instance`."""
        self = super().__new__(cls, value)
        self.server = server
        self.instance = instance
        if maybe_duplicate:
            self.maybe_duplicate = True
        if buried:
            self.buried = True
        return self

    def __repr__(self) -> str:
        flags = ", maybe_duplicate" * self.maybe_duplicate + ", buried" * self.buried
        return f"<JobId {int(self)} of {self.server}{flags}>"

    def __str__(self) -> str:
        return str(int(self))

    def __format__(self, spec: str) -> str:
        return format(int(self), spec)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (int(self), self.server, self.instance, self.maybe_duplicate, self.buried))


def _rebuild(value: int, server: str, instance: str, maybe_duplicate: bool, buried: bool) -> JobId:
    return JobId(value, server, instance, maybe_duplicate=maybe_duplicate, buried=buried)
