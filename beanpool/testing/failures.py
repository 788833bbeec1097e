"""What goes wrong with a server that a test started."""

from __future__ import annotations


class ServerFailed(RuntimeError):
    """The server ended, could not be started, or did not answer, when it should have been serving."""


class NoBeanstalkd(ServerFailed):
    """There is no beanstalkd program to start; the message says how to get one."""
