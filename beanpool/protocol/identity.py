"""Who a server is: the few fields of ``stats`` that every new connection of a pool learns, and how full it is."""

from __future__ import annotations

import dataclasses
import re

_FIELD = re.compile(rb'^(id|version|draining|max-job-size): "?([^"\r\n]*)"?\r?$', re.MULTILINE)

_JOBS = re.compile(rb"^current-jobs-(?:ready|reserved|delayed|buried): ([0-9]{1,20})\r?$", re.MULTILINE)


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """One server process."""

    instance: str
    """The ``id``, which changes at every start of the server; empty if it did not say."""
    version: str
    draining: bool
    max_job_size: int | None
    """The largest body that it takes (bytes)."""


def parse_identity(document: bytes) -> Identity:
    """Pick the fields out of the reply to ``stats``. Not by YAML: every connect would pay for it."""
    fields = {name.decode(): value.decode("utf-8", "replace").strip() for name, value in _FIELD.findall(document)}
    size = fields.get("max-job-size", "")
    return Identity(
        instance=fields.get("id", ""),
        version=fields.get("version", ""),
        draining=fields.get("draining") == "true",
        max_job_size=int(size) if re.fullmatch(r"[0-9]{1,10}", size) else None,
    )


def count_jobs(document: bytes) -> int | None:
    """How many jobs a server holds, in whatever state, by its reply to ``stats``; None if it does not say."""
    counts = [int(count) for count in _JOBS.findall(document)]
    return sum(counts) if len(counts) == 4 else None
