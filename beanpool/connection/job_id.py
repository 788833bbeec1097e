"""The name of a stored job: its id, and the server process that gave it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

_new_int = int.__new__


class JobId(int):
    """A job's id, which is an ``int``, together with where it is worth something.

    Ids of different servers collide, and a server that was restarted may use an id again; so commands on a
    ``JobId`` go to its server only, and only while that is the same process.

    Two of them are equal only if number, server and process are; a plain ``int`` is equal to every ``JobId`` of its
    number. So sets and dicts keep jobs of different servers apart as long as all of their keys are of one kind: a plain
    ``int`` cannot say which of several it means, and stands in for any of them. They are sorted by number.

    :ivar maybe_duplicate: whether an attempt before may have stored the same body too.
    :ivar buried: whether the server had no memory to queue the job, and has buried it.
    """

    _origin: tuple[str, str]
    maybe_duplicate: bool = False
    buried: bool = False

    def __new__(
        cls, value: int, server: str, instance: str, *, maybe_duplicate: bool = False, buried: bool = False
    ) -> JobId:
        """Name the job `value` of `server`, given by its process `instance`."""
        self = super().__new__(cls, value)
        self._origin = (server, instance)
        if maybe_duplicate:
            self.maybe_duplicate = True
        if buried:
            self.buried = True
        return self

    def __eq__(self, other: object) -> bool:
        if isinstance(other, JobId) and self._origin != other._origin:
            return False
        return int.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        if isinstance(other, JobId) and self._origin != other._origin:
            return True
        return int.__ne__(self, other)

    # What is equal to an int has its hash.
    if TYPE_CHECKING:

        def __hash__(self) -> int: ...
    else:
        __hash__ = int.__hash__

    @property
    def server(self) -> str:
        """The server's address."""
        return self._origin[0]

    @property
    def instance(self) -> str:
        """The ``id`` of the server process."""
        return self._origin[1]

    def __repr__(self) -> str:
        flags = ", maybe_duplicate" * self.maybe_duplicate + ", buried" * self.buried
        return f"<JobId {int(self)} of {self.server}{flags}>"

    def __str__(self) -> str:
        return str(int(self))

    def __format__(self, spec: str) -> str:
        return format(int(self), spec)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (int(self), self.server, self.instance, self.maybe_duplicate, self.buried))


def new_job_id(value: int, origin: tuple[str, str]) -> JobId:
    """Name the job `value` of `origin`: a server and its process. For many at once, which share it."""
    named = _new_int(JobId, value)
    named._origin = origin
    return named


def _rebuild(value: int, server: str, instance: str, maybe_duplicate: bool, buried: bool) -> JobId:
    return JobId(value, server, instance, maybe_duplicate=maybe_duplicate, buried=buried)
