"""Who computes next: one at a time, in the order of arrival, and those that can go together do.

A model computes for one caller at a time. Searches that wait for it meanwhile are answered together, as soon as it is
free; one that finds it free begins at once. All else (`with turns:`) comes when it is its turn, after one batch of
searches at most.
"""

import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

from utils.errors import UserError

Job = TypeVar("Job", bound="Joined")


class Abandoned(UserError):
    """Nobody waits for the answer any more."""


class Ticket:
    """A thread that waits. called: it is its turn, or it is answered."""

    def __init__(self) -> None:
        self.thread, self.called = threading.get_ident(), threading.Event()


class Joined(Ticket):
    """What can be done together with others that wait. size: how much work it is; abandoned: whether nobody waits."""

    def __init__(self, size: int, abandoned: Callable[[], bool] = lambda: False):
        super().__init__()
        self.size, self.abandoned = size, abandoned
        self.error: BaseException | None = None
        self.done = False

    def finish(self, error: BaseException | None = None) -> None:
        """Let its thread go on. error: what that thread raises."""
        self.error = self.error or error
        self.done = True
        self.called.set()


class Turns(Generic[Job]):
    """A lock that is handed on in the order in which it was asked for, and may be taken again by who holds it."""

    def __init__(self, most: int, together: bool = True):
        """most: the greatest size of jobs that are done together, unless one alone has more. together: False = each
        job is done alone."""
        self.most, self.joins = most, together
        self.guard = threading.Lock()
        self.waiting: deque[Ticket] = deque()
        self.holder: int | None = None
        self.depth = 0

    # ---- alone -------------------------------------------------------------------------

    def __enter__(self) -> None:
        me = threading.get_ident()
        if self.holder == me:  # no other thread sets it to that
            self.depth += 1
            return
        self.wait(Ticket())

    def __exit__(self, type_: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.depth -= 1
        if not self.depth:
            self.hand_on()

    # ---- together ----------------------------------------------------------------------

    def run(self, job: Job, work: Callable[[list[Job]], None]) -> None:
        """Do a job, together with those that wait when it is its turn, or let another thread do so.

        work: does jobs, each of which it finishes. What it raises of several is the fault of one of them: each is then
        done alone. Raises what goes wrong with this one, and Abandoned when nobody waits for it any more.
        """
        if self.holder == job.thread:  # within `with turns:`
            self.do([job], work)
        else:
            self.wait(job)
            if not job.done:
                try:
                    self.do(self.companions(job), work)
                finally:
                    self.hand_on()
        if job.error is not None:
            raise job.error

    def companions(self, first: Job) -> list[Job]:
        """A job with those that wait and go with it, in their order; those that nobody waits for are dropped."""
        found, size = [first], first.size
        with self.guard:
            for ticket in list(self.waiting) if self.joins else ():
                if isinstance(ticket, Joined) and not ticket.abandoned():
                    if size + ticket.size > self.most:
                        break
                    size += ticket.size
                    found.append(ticket)  # type: ignore[arg-type]
            taken = set(map(id, found))
            self.waiting = deque(ticket for ticket in self.waiting if id(ticket) not in taken)
        return found

    def do(self, jobs: list[Job], work: Callable[[list[Job]], None]) -> None:
        """Do jobs together, or, after a fault, one by one; all are finished then."""
        gone = [job for job in jobs if job.abandoned()]
        for job in gone:
            job.finish(Abandoned("nobody waits for this answer any more"))
        jobs = [job for job in jobs if not job.done]
        try:
            if jobs:
                work(jobs)
        except BaseException as error:  # also what ends this thread: the others shall not wait for good
            for job in [job for job in jobs if not job.done]:
                if isinstance(error, Exception) and len(jobs) > 1:
                    self.do([job], work)
                else:
                    job.finish(error)
        for job in jobs:
            job.finish()

    # ---- handing on --------------------------------------------------------------------

    def wait(self, ticket: Ticket) -> None:
        """Until this thread holds the lock, or the job is done."""
        with self.guard:
            if self.holder is None:
                self.holder, self.depth = ticket.thread, 1
                return
            self.waiting.append(ticket)
        try:
            ticket.called.wait()
        except BaseException:  # a signal, in the main thread
            self.leave(ticket)
            raise

    def leave(self, ticket: Ticket) -> None:
        """Wait no longer, and hold nothing."""
        with self.guard:
            if ticket in self.waiting:
                self.waiting.remove(ticket)
                return
        if self.holder == ticket.thread:
            self.hand_on()

    def hand_on(self) -> None:
        """Let the thread that waits longest hold the lock."""
        with self.guard:
            while self.waiting:
                ticket = self.waiting.popleft()
                if isinstance(ticket, Joined) and ticket.abandoned():
                    ticket.finish(Abandoned("nobody waits for this answer any more"))
                    continue
                self.holder, self.depth = ticket.thread, 1
                ticket.called.set()
                return
            self.holder, self.depth = None, 0
