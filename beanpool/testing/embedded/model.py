"""What beanstalkd does: tubes, jobs, sessions, and what time does to them.

Pure: no socket, no thread, and the time is asked of the clock that it is given. One thread at a time may use it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from beanpool.protocol import DEFAULT_TUBE_NAME
from beanpool.testing.embedded.bag import Bag
from beanpool.testing.embedded.clock import SECOND
from beanpool.testing.embedded.state import JobState, NoJob, Session, StoredJob, Tube


class Model:
    """The state of one server.

    :param now: the time in nanoseconds.
    :param max_job_size: bytes.
    :ivar commands: how often each command was given.
    :ivar draining: whether new jobs are refused.
    :ivar due: no moment before this one changes anything by itself.
    """

    def __init__(self, now: Callable[[], int], max_job_size: int) -> None:
        self.now = now
        self.max_job_size = max_job_size
        self.started = now()
        self.draining = False
        self.due: int | None = None
        self.tubes: Bag[Tube] = Bag()
        self.jobs: dict[int, StoredJob] = {}
        self.sessions: dict[Session, None] = {}
        self.commands: Counter[str] = Counter()
        self.total_sessions = 0
        self.total_jobs = 0
        self.timeouts = 0
        self._next_id = 1
        self._default = self._find_or_make(DEFAULT_TUBE_NAME)

    # connections

    def connect(self, answer: Callable[[StoredJob | NoJob], None]) -> Session:
        """Open a session; `answer` is called with what its reserves bring."""
        session = Session(answer, self._default)
        self._default.using += 1
        self._default.watching += 1
        session.watched.add(self._default)
        self.sessions[session] = None
        self.total_sessions += 1
        return session

    def disconnect(self, session: Session) -> None:
        """End a session: its reserved jobs are ready at once."""
        del self.sessions[session]
        self._stop_waiting(session)
        for job in list(session.reserved.values()):
            self._end_reservation(job)
            self._make_ready(job)
        while session.watched:
            first = next(iter(session.watched))
            self._ignore(session, first)
        session.used.using -= 1
        self._drop_if_unneeded(session.used)

    # putting

    def announce(self, session: Session, priority: int, delay: int, ttr: int) -> StoredJob:
        """Give an id to a job whose body is on its way to the used tube."""
        session.producer = True
        job = StoredJob(self._next_id, session.used, priority, delay, max(1, ttr), self.now())
        self._next_id += 1
        job.tube.jobs += 1
        return job

    def store(self, job: StoredJob, body: bytes) -> None:
        """Take an announced job."""
        job.body = body
        self.jobs[job.id] = job
        self.total_jobs += 1
        job.tube.total_jobs += 1
        self._enqueue(job, job.delay)

    def discard(self, job: StoredJob) -> None:
        """Forget an announced job; its id is not given again."""
        self._leave_tube(job)

    # tubes

    def find_tube(self, name: str) -> Tube | None:
        """The tube of that name, if it exists."""
        return next((tube for tube in self.tubes if tube.name == name), None)

    def use(self, session: Session, name: str) -> None:
        """Put into the tube `name` from now on."""
        before, session.used = session.used, self._find_or_make(name)
        before.using -= 1
        session.used.using += 1
        self._drop_if_unneeded(before)

    def watch(self, session: Session, name: str) -> int:
        """Reserve from the tube `name` too; return how many tubes are watched."""
        tube = self._find_or_make(name)
        if tube not in session.watched:
            session.watched.add(tube)
            tube.watching += 1
        return len(session.watched)

    def ignore(self, session: Session, name: str) -> int | None:
        """Reserve from the tube `name` no longer; return how many are watched, or None if it is the only one."""
        tube = next((tube for tube in session.watched if tube.name == name), None)
        if tube is not None:
            if len(session.watched) < 2:
                return None
            self._ignore(session, tube)
        return len(session.watched)

    def pause(self, tube: Tube, seconds: int) -> None:
        """Let nobody reserve from the tube for a time; 0 ends a pause."""
        # Never none at all, so that those who wait are served when it ends.
        tube.paused_until = self.now() + max(1, seconds * SECOND)
        tube.paused = seconds
        tube.pauses += 1
        self._note_due(tube.paused_until)

    # reserving

    def reserve(self, session: Session, seconds: int | None) -> None:
        """Wait for a job, for ever with None; what comes of it goes to the session's `answer`."""
        session.worker = True
        now = self.now()
        if session.deadline_soon(now) and not any(tube.ready for tube in session.watched):
            session.answer(NoJob.DEADLINE_SOON)
            return
        session.waiting = True
        session.waiting_until = None if seconds is None else now + seconds * SECOND
        for tube in session.watched:
            tube.waiting.add(session)
        self._hand_out()
        if session.waiting:
            if seconds == 0:
                self._time_passed(session)
            elif session.due is not None:
                self._note_due(session.due)

    def give_up_waiting(self, session: Session) -> None:
        """End a waiting reserve because the client has closed its side."""
        self._stop_waiting(session)
        session.answer(NoJob.TIMED_OUT)

    def reserve_job(self, session: Session, job: StoredJob) -> bool:
        """Reserve this very job; False if somebody has it reserved."""
        if job.state is JobState.RESERVED:
            return False
        self._take_out(job)
        session.worker = True
        self._reserve(session, job)
        return True

    def delete(self, session: Session, job: StoredJob) -> bool:
        """Delete a job; False if another session has it reserved."""
        if job.state is JobState.RESERVED and job.holder is not session:
            return False
        self._take_out(job)
        job.tube.deletes += 1
        del self.jobs[job.id]
        self._leave_tube(job)
        return True

    def release(self, session: Session, job: StoredJob, priority: int, delay: int) -> bool:
        """Give a job back; False if this session has not reserved it."""
        if job.holder is not session:
            return False
        self._end_reservation(job)
        job.priority, job.delay = priority, delay
        job.releases += 1
        self._enqueue(job, delay)
        return True

    def bury(self, session: Session, job: StoredJob, priority: int) -> bool:
        """Put a job aside; False if this session has not reserved it."""
        if job.holder is not session:
            return False
        self._end_reservation(job)
        job.priority = priority
        job.state = JobState.BURIED
        job.tube.buried[job.id] = job
        job.buries += 1
        return True

    def touch(self, session: Session, job: StoredJob) -> bool:
        """Start the job's time to run again; False if this session has not reserved it."""
        if job.holder is not session:
            return False
        job.deadline = self.now() + job.ttr * SECOND
        self._note_due(job.deadline)
        return True

    def kick(self, tube: Tube, bound: int) -> int:
        """Make up to `bound` buried jobs ready, or delayed ones if none is buried; return how many."""
        kicked = 0
        if tube.buried:
            while kicked < bound and tube.buried:
                self.kick_job(next(iter(tube.buried.values())))
                kicked += 1
        else:
            while kicked < bound and tube.delayed:
                self.kick_job(tube.delayed.first)
                kicked += 1
        return kicked

    def kick_job(self, job: StoredJob) -> bool:
        """Make this very job ready; False if it is neither buried nor delayed."""
        if job.state not in (JobState.BURIED, JobState.DELAYED):
            return False
        self._take_out(job)
        job.kicks += 1
        self._make_ready(job)
        return True

    # time

    def tick(self) -> None:
        """Do what time has made due: delays, pauses, reservations, and the timeouts of reserves."""
        now = self.now()
        if self.due is None or now < self.due:
            return
        while (job := self._soonest_delayed()) is not None and job.deadline <= now:
            self._take_out(job)
            self._make_ready(job)
        for tube in self.tubes:
            if tube.paused_until is not None and tube.paused_until <= now:
                tube.end_pause()
                self._hand_out()
        moments = [(due, session) for session in self.sessions if (due := session.due) is not None and due <= now]
        for _, session in sorted(moments, key=lambda moment: moment[0]):
            self._time_passed(session)
        self.due = min(self._moments(), default=None)

    def _time_passed(self, session: Session) -> None:
        now = self.now()
        if session.waiting and session.deadline_soon(now):
            self._stop_waiting(session)
            session.answer(NoJob.DEADLINE_SOON)
        for job in list(session.reserved.values()):
            if job.deadline <= now:
                self.timeouts += 1
                job.timeouts += 1
                self._end_reservation(job)
                self._make_ready(job)
        if session.waiting and session.waiting_until is not None and session.waiting_until <= now:
            self._stop_waiting(session)
            session.answer(NoJob.TIMED_OUT)

    def _note_due(self, moment: int) -> None:
        if self.due is None or moment < self.due:
            self.due = moment

    def _moments(self) -> list[int]:
        job = self._soonest_delayed()
        moments = [] if job is None else [job.deadline]
        moments += [tube.paused_until for tube in self.tubes if tube.paused_until is not None]
        moments += [due for session in self.sessions if (due := session.due) is not None]
        return moments

    def _soonest_delayed(self) -> StoredJob | None:
        first = (tube.delayed.first for tube in self.tubes if tube.delayed)
        return min(first, key=lambda job: job.deadline, default=None)

    # a job's way

    def _enqueue(self, job: StoredJob, delay: int) -> None:
        if not delay:
            self._make_ready(job)
            return
        job.state = JobState.DELAYED
        job.deadline = self.now() + delay * SECOND
        job.tube.delayed.add(job.deadline, job)
        self._note_due(job.deadline)

    def _make_ready(self, job: StoredJob) -> None:
        job.state = JobState.READY
        job.tube.ready.add(job.priority, job)
        self._hand_out()

    def _hand_out(self) -> None:
        while (job := self._awaited_job()) is not None:
            session = job.tube.waiting.take()
            self._stop_waiting(session)
            self._take_out(job)
            self._reserve(session, job)
            session.answer(job)

    def _awaited_job(self) -> StoredJob | None:
        # Over all tubes that somebody waits for, not tube by tube: the most urgent job goes first.
        found = None
        for tube in self.tubes:
            if not tube.waiting or not tube.ready:
                continue
            if tube.paused_until is not None:
                if tube.paused_until > self.now():
                    continue
                tube.end_pause()
            first = tube.ready.first
            if found is None or (first.priority, first.id) < (found.priority, found.id):
                found = first
        return found

    def _reserve(self, session: Session, job: StoredJob) -> None:
        job.state = JobState.RESERVED
        job.holder = session
        job.deadline = self.now() + job.ttr * SECOND
        job.reserves += 1
        job.tube.reserved += 1
        session.reserved[job.id] = job
        self._note_due(job.deadline)

    def _take_out(self, job: StoredJob) -> None:
        tube = job.tube
        match job.state:
            case JobState.READY:
                tube.ready.remove(job.priority, job)
            case JobState.DELAYED:
                tube.delayed.remove(job.deadline, job)
            case JobState.BURIED:
                del tube.buried[job.id]
            case JobState.RESERVED:
                self._end_reservation(job)

    def _end_reservation(self, job: StoredJob) -> None:
        if job.holder is not None:
            del job.holder.reserved[job.id]
            job.holder = None
            job.tube.reserved -= 1

    def _stop_waiting(self, session: Session) -> None:
        if session.waiting:
            session.waiting = False
            for tube in session.watched:
                tube.waiting.remove(session)

    # a tube's life

    def _find_or_make(self, name: str) -> Tube:
        tube = self.find_tube(name)
        if tube is None:
            tube = Tube(name)
            self.tubes.add(tube)
        return tube

    def _ignore(self, session: Session, tube: Tube) -> None:
        session.watched.remove(tube)
        tube.watching -= 1
        self._drop_if_unneeded(tube)

    def _leave_tube(self, job: StoredJob) -> None:
        job.tube.jobs -= 1
        self._drop_if_unneeded(job.tube)

    def _drop_if_unneeded(self, tube: Tube) -> None:
        if not tube.needed and tube is not self._default:
            self.tubes.remove(tube)
