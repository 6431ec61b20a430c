"""Work shared out to processes of this machine, with results in the order of the tasks."""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, TypeVar

from utils.errors import UserError

Result = TypeVar("Result")

WAITING = 4  # tasks handed out per worker, so that a long list of tasks needs little memory
_shared: tuple = ()  # in a worker: what all its tasks have in common


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def loader_processes() -> BaseContext:
    """How processes that load data are started: by a server that forks itself, from which this one is made at once.

    A fork of this process would hang now and then: by the time that data are loaded it runs threads, whose locks
    nobody opens in the fork. The server outlives signals to all, because the processes that it has started end with it.
    """
    forkserver.set_forkserver_preload(own_modules())
    signals, main = (signal.SIGTERM, signal.SIGUSR1), threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, signal.SIG_IGN) for number in signals} if main else {}
    try:
        forkserver.ensure_running()  # ignored signals stay ignored in a program that is started
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return multiprocessing.get_context("forkserver")


def own_modules() -> list[str]:
    """What is imported of this program: the server imports it once, and all its processes have it."""
    root = Path(__file__).resolve().parent.parent
    files = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    return sorted(n for n, file in files.items() if file and Path(file).parent.parent == root and n != "__main__")


def loaded(loader: Iterable[Result | UserError]) -> Iterator[Result]:
    """What a DataLoader yields. Its processes return what is wrong, as raising would bury it in their traceback.

    Raises UserError for the first that is one, and when a process has died.
    """
    try:
        for item in loader:
            if isinstance(item, UserError):
                raise UserError(str(item))  # `raise item` would tie this frame, and the processes, to the error
            yield item
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError("a process that loads data has died (out of memory?); lower `workers` or set it to 0") from None


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
