"""What the servers say of themselves and their tubes, asked when they are scraped."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prometheus_client import Metric
from prometheus_client.registry import Collector

from beanpool import PoolClosed, PoolManager, ServerSurvey
from beanpool.contrib.prometheus.families import Family, Filled, Labels

_STATES = {
    "urgent": "ready, and have a priority below 1024",
    "ready": "can be reserved",
    "reserved": "are reserved",
    "delayed": "are delayed",
    "buried": "are buried",
}
_COMMANDS = (
    *("put", "peek", "peek-ready", "peek-delayed", "peek-buried", "reserve", "reserve-with-timeout", "reserve-job"),
    *("use", "watch", "ignore", "delete", "release", "bury", "kick", "kick-job", "touch", "stats", "stats-job"),
    *("stats-tube", "list-tubes", "list-tube-used", "list-tubes-watched", "pause-tube"),
)


def _name(prefix: str, statistic: str) -> str:
    return f"{prefix}_{statistic.replace('-', '_')}"


_SERVER = {
    **{
        f"current-jobs-{state}": Family(_name("beanstalkd_current_jobs", state), f"Jobs of the server that {what}.")
        for state, what in _STATES.items()
    },
    **{
        f"cmd-{command}": Family(
            _name("beanstalkd_cmd", command), f"How often clients have sent {command}.", counter=True
        )
        for command in _COMMANDS
    },
    "job-timeouts": Family("beanstalkd_job_timeouts", "Jobs that were reserved for longer than their TTR.", True),
    "total-jobs": Family("beanstalkd_jobs", "Jobs that were put since the server was started.", True),
    "max-job-size": Family("beanstalkd_max_job_size_bytes", "How large the body of a job may be."),
    "current-tubes": Family("beanstalkd_current_tubes", "Tubes."),
    "current-connections": Family("beanstalkd_current_connections", "Connections that are open."),
    "current-producers": Family("beanstalkd_current_producers", "Connections that have put a job."),
    "current-workers": Family("beanstalkd_current_workers", "Connections that have asked for a job."),
    "current-waiting": Family("beanstalkd_current_waiting", "Connections that wait for a job."),
    "total-connections": Family("beanstalkd_connections", "Connections since the server was started.", True),
    "rusage-utime": Family("beanstalkd_cpu_user_time_seconds", "Processor time of the server's own code.", True),
    "rusage-stime": Family("beanstalkd_cpu_system_time_seconds", "Processor time of its system calls.", True),
    "uptime": Family("beanstalkd_uptime_seconds", "How long ago the server was started."),
    "binlog-oldest-index": Family("beanstalkd_binlog_oldest_index", "The oldest file of the write-ahead log."),
    "binlog-current-index": Family("beanstalkd_binlog_current_index", "The newest file of the write-ahead log."),
    "binlog-max-size": Family("beanstalkd_binlog_max_size_bytes", "How large a file of the write-ahead log gets."),
    "binlog-records-written": Family("beanstalkd_binlog_records_written", "Records of the write-ahead log.", True),
    "binlog-records-migrated": Family(
        "beanstalkd_binlog_records_migrated", "Records that were written once more, to compact it.", True
    ),
    "draining": Family("beanstalkd_draining", "Whether the server takes no jobs any more."),
}
_TUBE = {
    **{
        f"current-jobs-{state}": Family(_name("beanstalkd_tube_current_jobs", state), f"Jobs of the tube that {what}.")
        for state, what in _STATES.items()
    },
    "total-jobs": Family("beanstalkd_tube_jobs", "Jobs that were put into the tube since it exists.", True),
    "current-using": Family("beanstalkd_tube_current_using", "Connections that put into the tube."),
    "current-watching": Family("beanstalkd_tube_current_watching", "Connections that reserve from the tube."),
    "current-waiting": Family("beanstalkd_tube_current_waiting", "Connections that wait for a job of the tube."),
    "cmd-delete": Family("beanstalkd_tube_cmd_delete", "Jobs of the tube that were deleted.", True),
    "cmd-pause-tube": Family("beanstalkd_tube_cmd_pause_tube", "How often the tube was paused.", True),
    "pause": Family("beanstalkd_tube_pause_seconds", "For how long the tube was paused, if it is."),
    "pause-time-left": Family("beanstalkd_tube_pause_time_left_seconds", "How long it will be paused."),
}
_UP = Family("beanstalkd_up", "Whether the server has answered in time.")
_COMPLETE = Family("beanstalkd_scrape_complete", "Whether everything of the server came in time.")
_DURATION = Family("beanstalkd_scrape_duration_seconds", "How long the server took to answer, until its last answer.")
_INFO = Family("beanstalkd_info", "Who the server is: always 1.")
_HEAD_AGE = Family(
    "beanstalkd_tube_head_age_seconds", "How long ago the job was put that is reserved next from the tube."
)
_LEFT_OUT = Family("beanstalkd_tubes_left_out", "Tubes that have no metrics here: there are too many.")
_ALL = (*_SERVER.values(), *_TUBE.values(), _UP, _COMPLETE, _DURATION, _INFO, _HEAD_AGE, _LEFT_OUT)


class ServerCollector(Collector):
    """What the servers of a pool say of themselves and their tubes, as metrics ``beanstalkd_...``.

    All servers are asked at once when they are scraped. One that is silent costs the scrape its `deadline`, and has
    ``beanstalkd_up`` 0. It is for one process of a cluster (``beanpool exporter``), not for each worker.

    :param pool: of all servers.
    :param tubes: which tubes have metrics: names, or patterns with ``*`` and ``?``.
    :param most: how many tubes of each server have metrics at most: the first by pattern and name. The others are
        counted as ``beanstalkd_tubes_left_out``.
    :param deadline: how long a scrape may take (seconds).
    :param head_age: whether to ask for the age of the job that is next in each tube. Its body is read for that.
    """

    def __init__(
        self,
        pool: PoolManager[Any],
        tubes: str | Iterable[str] = ("*",),
        most: int = 100,
        deadline: float = 2.0,
        head_age: bool = True,
    ) -> None:
        self._pool = pool
        self._tubes = (tubes,) if isinstance(tubes, str) else tuple(tubes)
        self._most = most
        self._deadline = deadline
        self._head_age = head_age

    def describe(self) -> Iterable[Metric]:
        """The metrics without values, for the registry; no server is asked."""
        return [family.empty() for family in _ALL]

    def collect(self) -> Iterable[Metric]:
        """The metrics of this moment; empty once the pool is closed."""
        try:
            found = self._pool.survey(self._tubes, most=self._most, head_age=self._head_age, timeout=self._deadline)
        except PoolClosed:
            return ()
        filled = Filled()
        for survey in found.values():
            _add_server(filled, survey)
        return filled.metrics()


def _add_server(filled: Filled, survey: ServerSurvey) -> None:
    server = {"server": survey.address}
    filled.add(_UP, server, survey.stats is not None)
    filled.add(_COMPLETE, server, survey.error is None)
    filled.add(_DURATION, server, survey.seconds)
    if survey.stats is None:
        return
    _add_numbers(filled, _SERVER, server, survey.stats)
    texts = {name: str(survey.stats.get(name, "")) for name in ("id", "version", "hostname")}
    filled.add(_INFO, {**server, "name": survey.name, **texts}, 1)
    filled.add(_LEFT_OUT, server, survey.left_out)
    for tube, stats in survey.tubes.items():
        labels = {**server, "tube": tube}
        _add_numbers(filled, _TUBE, labels, stats)
        if tube in survey.head_ages:
            filled.add(_HEAD_AGE, labels, survey.head_ages[tube])


def _add_numbers(filled: Filled, families: dict[str, Family], labels: Labels, stats: Any) -> None:
    for name, value in stats.items():
        family = families.get(name)
        if family is not None and isinstance(value, int | float):
            filled.add(family, labels, value)
