"""Work shared out to processes or threads of this machine, with results in the order of the tasks."""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from utils.errors import UserError

Result = TypeVar("Result")
Task = TypeVar("Task")

WAITING = 4  # tasks handed out per worker, so that a long list of tasks needs little memory
_shared: tuple = ()  # in a worker: what all its tasks have in common


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_in_order(
    function: Callable[..., Result], tasks: Iterable, workers: int, shared: tuple = (), fork: bool = False
) -> Iterator[Result]:
    """function(*shared, task) for every task, by `workers` processes (1 = by this one).

    Workers are fresh processes, because a fork of a program that runs threads can hang when
    both use the same library of threads. `fork` (where there is fork) is for functions that start no
    threads: it starts at once, and `shared` need not be copied.

    Raises what `function` raises, and UserError when a worker process dies.
    """
    if workers == 1:
        yield from (function(*shared, task) for task in tasks)
        return
    start = "fork" if fork and "fork" in multiprocessing.get_all_start_methods() else "spawn"
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context(start), _start_worker, (shared,))
    pending: deque = deque()
    try:
        for task in tasks:
            pending.append(pool.submit(_call, function, task))
            if len(pending) > WAITING * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool:
        raise UserError(
            "a worker process ended unexpectedly (out of memory?); run again with fewer processes"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(shared: tuple) -> None:
    global _shared
    _shared = shared
    # Ctrl-C reaches all processes; the parent alone should answer it
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _call(function: Callable[..., Any], task: Any) -> Any:
    return function(*_shared, task)


def map_in_threads(function: Callable[[Task], Result], tasks: Sequence[Task], threads: int) -> Iterator[Result]:
    """function(task) for every task in order, by threads that are at most `WAITING` tasks each ahead."""
    if threads == 1 or len(tasks) < 2:
        yield from map(function, tasks)
        return
    with ThreadPoolExecutor(min(threads, len(tasks))) as pool:
        pending: deque[Future[Result]] = deque()
        for task in tasks:
            pending.append(pool.submit(function, task))
            if len(pending) > WAITING * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
