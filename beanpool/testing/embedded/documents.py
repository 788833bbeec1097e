"""The documents that ``stats``, ``stats-job``, ``stats-tube`` and the ``list`` commands answer with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from beanpool.testing.embedded.clock import SECOND
from beanpool.testing.embedded.dialect import Dialect
from beanpool.testing.embedded.host import Host
from beanpool.testing.embedded.model import Model
from beanpool.testing.embedded.state import JobState, StoredJob, Tube

# In the order of the document; reserve-job and kick-job have no counter there.
_COUNTED = (
    *("put", "peek", "peek-ready", "peek-delayed", "peek-buried", "reserve", "reserve-with-timeout", "delete"),
    *("release", "use", "watch", "ignore", "bury", "kick", "touch", "stats", "stats-job", "stats-tube"),
    *("list-tubes", "list-tube-used", "list-tubes-watched", "pause-tube"),
)
_LOG_FILE_SIZE = 10485760


def server_document(model: Model, host: Host, dialect: Dialect) -> bytes:
    """The reply of ``stats``."""
    user, system = host.processor_seconds()
    tubes = list(model.tubes)
    return _mapping(
        {
            "current-jobs-urgent": sum(tube.urgent for tube in tubes),
            "current-jobs-ready": sum(len(tube.ready) for tube in tubes),
            "current-jobs-reserved": sum(tube.reserved for tube in tubes),
            "current-jobs-delayed": sum(len(tube.delayed) for tube in tubes),
            "current-jobs-buried": sum(len(tube.buried) for tube in tubes),
            **{f"cmd-{name}": model.commands[name] for name in _COUNTED},
            "job-timeouts": model.timeouts,
            "total-jobs": model.total_jobs,
            "max-job-size": model.max_job_size,
            "current-tubes": len(tubes),
            "current-connections": len(model.sessions),
            "current-producers": sum(session.producer for session in model.sessions),
            "current-workers": sum(session.worker for session in model.sessions),
            "current-waiting": sum(session.waiting for session in model.sessions),
            "total-connections": model.total_sessions,
            "pid": host.pid,
            "version": f'"{dialect.version}"',
            "rusage-utime": f"{user:.6f}",
            "rusage-stime": f"{system:.6f}",
            "uptime": (model.now() - model.started) // SECOND,
            # There is no write-ahead log: what beanstalkd says without one.
            "binlog-oldest-index": 0,
            "binlog-current-index": 0,
            "binlog-records-migrated": 0,
            "binlog-records-written": 0,
            "binlog-max-size": _LOG_FILE_SIZE,
            "draining": "true" if model.draining else "false",
            "id": host.instance,
            "hostname": dialect.text(host.name),
            "os": dialect.text(host.system),
            "platform": dialect.text(host.machine),
        }
    )


def tube_document(model: Model, tube: Tube, dialect: Dialect) -> bytes:
    """The reply of ``stats-tube``."""
    pause_left = 0 if tube.paused_until is None else (tube.paused_until - model.now()) // SECOND
    return _mapping(
        {
            "name": dialect.text(tube.name),
            "current-jobs-urgent": tube.urgent,
            "current-jobs-ready": len(tube.ready),
            "current-jobs-reserved": tube.reserved,
            "current-jobs-delayed": len(tube.delayed),
            "current-jobs-buried": len(tube.buried),
            "total-jobs": tube.total_jobs,
            "current-using": tube.using,
            "current-watching": tube.watching,
            "current-waiting": len(tube.waiting),
            "cmd-delete": tube.deletes,
            "cmd-pause-tube": tube.pauses,
            "pause": tube.paused,
            "pause-time-left": max(0, pause_left),
        }
    )


def job_document(model: Model, job: StoredJob, dialect: Dialect) -> bytes:
    """The reply of ``stats-job``."""
    now = model.now()
    timed = job.state in (JobState.RESERVED, JobState.DELAYED)
    return _mapping(
        {
            "id": job.id,
            "tube": dialect.text(job.tube.name),
            "state": job.state.value,
            "pri": job.priority,
            "age": (now - job.created) // SECOND,
            "delay": job.delay,
            "ttr": job.ttr,
            "time-left": max(0, (job.deadline - now) // SECOND) if timed else 0,
            "file": 0,
            "reserves": job.reserves,
            "timeouts": job.timeouts,
            "releases": job.releases,
            "buries": job.buries,
            "kicks": job.kicks,
        }
    )


def tube_list(tubes: Iterable[Tube]) -> bytes:
    """The reply of ``list-tubes`` and ``list-tubes-watched``."""
    return "".join(["---\n", *(f"- {tube.name}\n" for tube in tubes)]).encode()


def _mapping(fields: Mapping[str, object]) -> bytes:
    return "".join(["---\n", *(f"{name}: {value}\n" for name, value in fields.items())]).encode()
