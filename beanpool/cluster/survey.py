"""A look at all servers and their tubes at once: for whoever shows how a cluster is."""

from __future__ import annotations

import dataclasses
import fnmatch
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from beanpool.cluster.fan_out import Question, ask_each
from beanpool.cluster.questions import STATISTICS, about_job, about_tube, about_tubes, next_ready, to_use
from beanpool.errors import BeanpoolError, NotFound
from beanpool.protocol import LIST_TUBES, encode_bare
from beanpool.server import Member

Statistics = Mapping[str, Any]
Take = Callable[[Sequence[Any]], Sequence[Question]]
"""Takes in the answers of a round, and returns the questions of the next one."""


@dataclasses.dataclass(frozen=True, slots=True)
class ServerSurvey:
    """What one server has said of itself and of its tubes, as far as it has answered in time."""

    address: str
    name: str
    stats: Statistics | None
    """Its own statistics (``stats``); None if it did not answer."""
    tubes: Mapping[str, Statistics]
    """Those of its tubes (``stats-tube``), by name."""
    head_ages: Mapping[str, int]
    """Of each tube with ready jobs: how long ago the one that is reserved next was put (seconds)."""
    left_out: int
    """How many tubes that match were not asked about: there were more than allowed."""
    seconds: float
    """How long it took until its last answer, or until it was given up."""
    error: BeanpoolError | None
    """Why anything is missing; None if nothing is."""


@dataclasses.dataclass(frozen=True, slots=True)
class Scope:
    """What is asked for."""

    patterns: tuple[str, ...]
    """Of the tubes' names, with ``*`` and ``?``; where there are too many, those of an earlier one are preferred."""
    most: int | None
    """How many tubes of each server; None for all."""
    head_age: bool
    home: str
    """The tube that connections use afterwards, as one that is in use never ends."""

    def choose(self, names: Iterable[str]) -> tuple[list[str], int]:
        """The tubes to ask about, always the same ones of the same names, and how many are left out."""
        rest, matching = sorted(names), list[str]()
        for pattern in self.patterns:
            matching += fnmatch.filter(rest, pattern) if pattern != "*" else rest
            found = set(matching)
            rest = [name for name in rest if name not in found]
        most = len(matching) if self.most is None else self.most
        return matching[:most], max(0, len(matching) - most)


def survey_all(members: Iterable[Member], scope: Scope, deadline: float) -> dict[str, ServerSurvey]:
    """Ask each server about itself and its tubes; returns by address what each has said until `deadline`.

    Each server goes through its rounds (four at most) as quickly as it answers, whatever the others do. Of several
    names of one server process, one is asked and returned.

    :param deadline: monotonic seconds.
    """
    looks = {member: _Look(member, scope) for member in members if member.duplicate_of is None}
    answers = ask_each(
        {member: look.asked for member, look in looks.items()},
        deadline,
        lambda member, said: looks[member].follow_up(said),
    )
    return {member.address: look.result(answers[member]) for member, look in looks.items()}


class _Look:
    """One server's rounds of questions."""

    def __init__(self, member: Member, scope: Scope) -> None:
        self._member = member
        self._scope = scope
        self._began = self._ended = time.monotonic()
        self._stats: Statistics | None = None
        self._tubes: dict[str, Statistics] = {}
        self._head_ages: dict[str, int] = {}
        self._left_out = 0
        self._error: BeanpoolError | None = None
        self._names: list[str] = []
        # For what was asked last; None once all was answered.
        self._take: Take | None = self._take_server
        # The statistics are the last, for they may be the connection's handshake too.
        self.asked: list[Question] = [
            about_tubes(LIST_TUBES, encode_bare(LIST_TUBES), None, None, None),
            STATISTICS,
        ]
        """The questions of the first round."""

    def follow_up(self, answers: Sequence[Any]) -> Sequence[Question]:
        """Take in the answers to a whole round; returns the questions of the next one."""
        take, self._take = self._take, None
        self._ended = time.monotonic()
        return take(answers) if take is not None else ()

    def result(self, answers: Sequence[Any]) -> ServerSurvey:
        """What came of it.

        :param answers: to the last round; it may have remained incomplete.
        """
        if self._take is not None:
            self.follow_up(answers)
        return ServerSurvey(
            self._member.address,
            self._member.name,
            self._stats,
            self._tubes,
            self._head_ages,
            self._left_out,
            self._ended - self._began,
            self._error,
        )

    def _take_server(self, answers: Sequence[Any]) -> Sequence[Question]:
        names, stats = self._good(answers)
        self._stats = stats
        if names is None:
            return ()
        self._names, self._left_out = self._scope.choose(names)
        return self._ask([about_tube(name) for name in self._names], self._take_tubes)

    def _take_tubes(self, answers: Sequence[Any]) -> Sequence[Question]:
        good = zip(self._names, self._good(answers), strict=True)
        self._tubes = {name: stats for name, stats in good if stats is not None}
        if not self._scope.head_age:
            return ()
        self._names = [name for name, stats in self._tubes.items() if stats.get("current-jobs-ready")]
        questions = [question for name in self._names for question in (to_use(name), next_ready(name))]
        return self._ask([*questions, to_use(self._scope.home)] if questions else [], self._take_heads)

    def _take_heads(self, answers: Sequence[Any]) -> Sequence[Question]:
        heads = zip(self._names, self._good(answers)[1::2], strict=True)
        ids = {name: jid for name, jid in heads if jid is not None}
        self._names = list(ids)
        return self._ask([about_job(jid) for jid in ids.values()], self._take_ages)

    def _take_ages(self, answers: Sequence[Any]) -> Sequence[Question]:
        jobs = zip(self._names, self._good(answers), strict=True)
        self._head_ages = {name: int(stats["age"]) for name, stats in jobs if stats is not None and "age" in stats}
        return ()

    def _ask(self, questions: Sequence[Question], take: Take) -> Sequence[Question]:
        """Have `take` given the answers, if anything is to be asked."""
        self._take = take if questions else None
        return questions

    def _good(self, answers: Sequence[Any]) -> list[Any]:
        """The answers, with None for errors; notes the first one that is no mere change since the last round."""
        errors = (
            answer for answer in answers if isinstance(answer, BeanpoolError) and not isinstance(answer, NotFound)
        )
        self._error = self._error or next(errors, None)
        return [None if isinstance(answer, BaseException) else answer for answer in answers]
