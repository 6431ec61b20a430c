"""A lock for the model that batches: jobs that wait for it are processed together, all in the order of arrival.

A model computes for one caller at a time. Searches that wait meanwhile are answered together as soon as it is free;
one that finds it free starts at once. Everything else (`with lock:`) waits for one batch of searches at most.
"""

import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

from utils.errors import UserError

Job = TypeVar("Job", bound="BatchJob")


class Abandoned(UserError):
    """Nobody waits for the answer any more."""


class Waiter:
    """A thread that waits. woken: set when it holds the lock, or its job is done."""

    def __init__(self) -> None:
        self.thread, self.woken = threading.get_ident(), threading.Event()


class BatchJob(Waiter):
    """Work that can be batched with other jobs. size: how much it is; abandoned: whether nobody waits."""

    def __init__(self, size: int, abandoned: Callable[[], bool] = lambda: False):
        super().__init__()
        self.size, self.abandoned = size, abandoned
        self.error: BaseException | None = None
        self.done = False

    def finish(self, error: BaseException | None = None) -> None:
        """Wake its thread, which raises `error` if there is one."""
        self.error = self.error or error
        self.done = True
        self.woken.set()


class BatchingLock(Generic[Job]):
    """A fair, re-entrant lock (first come, first served) that processes waiting jobs in batches."""

    def __init__(self, max_batch_size: int, batched: bool = True):
        """max_batch_size: of all jobs of a batch together, unless one alone is larger. batched: False = no batches."""
        self.max_batch_size, self.batched = max_batch_size, batched
        self.guard = threading.Lock()
        self.waiting: deque[Waiter] = deque()
        self.holder: int | None = None
        self.depth = 0

    # ---- alone -------------------------------------------------------------------------

    def __enter__(self) -> None:
        me = threading.get_ident()
        if self.holder == me:  # no other thread sets it to that
            self.depth += 1
            return
        self.acquire(Waiter())

    def __exit__(self, type_: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.depth -= 1
        if not self.depth:
            self.release()

    # ---- together ----------------------------------------------------------------------

    def run(self, job: Job, work: Callable[[list[Job]], None]) -> None:
        """Do a job, together with those that wait when it is its turn, or let another thread do so.

        work: does jobs, each of which it finishes. What it raises of several is the fault of one of them: each is then
        done alone. Raises what goes wrong with this one, and Abandoned when nobody waits for it any more.
        """
        if self.holder == job.thread:  # within `with lock:`
            self.process([job], work)
        else:
            self.acquire(job)
            if not job.done:
                try:
                    self.process(self.collect_batch(job), work)
                finally:
                    self.release()
        if job.error is not None:
            raise job.error

    def collect_batch(self, first: Job) -> list[Job]:
        """A job with those that wait and go with it, in their order; those that nobody waits for are dropped."""
        found, size = [first], first.size
        with self.guard:
            for waiter in list(self.waiting) if self.batched else ():
                if isinstance(waiter, BatchJob) and not waiter.abandoned():
                    if size + waiter.size > self.max_batch_size:
                        break
                    size += waiter.size
                    found.append(waiter)  # type: ignore[arg-type]
            taken = set(map(id, found))
            self.waiting = deque(waiter for waiter in self.waiting if id(waiter) not in taken)
        return found

    def process(self, jobs: list[Job], work: Callable[[list[Job]], None]) -> None:
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
                    self.process([job], work)
                else:
                    job.finish(error)
        for job in jobs:
            job.finish()

    # ---- the lock ----------------------------------------------------------------------

    def acquire(self, waiter: Waiter) -> None:
        """Wait until this thread holds the lock, or its job is done."""
        with self.guard:
            if self.holder is None:
                self.holder, self.depth = waiter.thread, 1
                return
            self.waiting.append(waiter)
        try:
            waiter.woken.wait()
        except BaseException:  # a signal, in the main thread
            self.withdraw(waiter)
            raise

    def withdraw(self, waiter: Waiter) -> None:
        """Stop waiting, and release the lock if this thread holds it."""
        with self.guard:
            if waiter in self.waiting:
                self.waiting.remove(waiter)
                return
        if self.holder == waiter.thread:
            self.release()

    def release(self) -> None:
        """Pass the lock to the thread that waits longest."""
        with self.guard:
            while self.waiting:
                waiter = self.waiting.popleft()
                if isinstance(waiter, BatchJob) and waiter.abandoned():
                    waiter.finish(Abandoned("nobody waits for this answer any more"))
                    continue
                self.holder, self.depth = waiter.thread, 1
                waiter.woken.set()
                return
            self.holder, self.depth = None, 0
