"""Processes that load data for a DataLoader: how they start, end, and tell what is wrong."""

import errno
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, queues
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from utils.errors import UserError
from utils.processes.handover import (
    AsBytes,
    describe_shared_memory,
    hand_over,
    prepare_sockets,
    usable_workers,
    warn_of_full_memory,
)

Item = TypeVar("Item")

ROOT = Path(__file__).resolve().parents[2]  # of this program
TO_ALL = (signal.SIGTERM, signal.SIGUSR1)  # what a cluster sends
GRACE = 60  # seconds that a loader process outlives a SIGTERM
USED_UP = (errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)  # what errors of starting one may be


def loader_settings(module: str, workers: int) -> dict[str, Any]:
    """Arguments of a DataLoader without `batch_size` for so many processes (0: none), whose items `loaded` yields.

    module: what they need. There are fewer, with a warning, where the machine has no room for them.
    """
    context = loader_processes(module) if workers else None
    workers = usable_workers(context, workers) if context else 0
    return {
        "num_workers": workers,
        "multiprocessing_context": context if workers else None,
        "worker_init_fn": serve_the_main_process,
        "collate_fn": hand_over,
    }


def loader_processes(module: str) -> BaseContext:
    """How processes that load data are started: by a server that forks itself, from which this one is made at once.

    module: what they need, and the server imports once for all of them. The first one asked for counts.

    A fork of this process would hang now and then: by the time that data are loaded it runs threads, whose locks
    nobody opens in the fork. The server outlives signals to all, because the processes that it has started end with it.

    Raises UserError when there is no folder for its socket.
    """
    prepare_sockets()
    forkserver.set_forkserver_preload([module])
    before = signal.pthread_sigmask(signal.SIG_BLOCK, TO_ALL)  # the server inherits it; here they wait for a moment
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([path] if path else [])])  # wherever this process is
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.environ.pop("PYTHONPATH")
        if path is not None:
            os.environ["PYTHONPATH"] = path
    return multiprocessing.get_context("forkserver")


@contextmanager
def without_main_script() -> Iterator[None]:
    """Processes that are started within do not run this program's main script, which they need nothing of.

    Python would import it in each of them, and with it all of training: seconds of a CPU. Other people's scripts, which
    may define what is to be loaded, are imported.
    """
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    ours = file is not None and main.__spec__ is None and ROOT in Path(file).resolve().parents
    try:
        if ours:
            del main.__file__
        yield
    finally:
        if ours:
            main.__file__ = file


def loaded(loader: Iterable[Item | UserError | AsBytes[Item]]) -> Iterator[Item]:
    """What a DataLoader yields. Its processes return what is wrong, as raising would bury it in their traceback.

    Raises UserError for the first that is one, and when a process has died, or what processes need is used up.
    """
    try:
        with without_main_script():
            items = iter(loader)
        for item in items:
            if isinstance(item, UserError):
                raise UserError(str(item))  # `raise item` would tie this frame, and the processes, to the error
            if isinstance(item, AsBytes):
                warn_of_full_memory()
                item = item.restore()
            yield item
    except RuntimeError as error:
        if "Too many open files" in str(error):
            raise UserError("too many files are open; raise `ulimit -n`, or set `workers` to 0") from None
        if "DataLoader worker" not in str(error):
            raise
        memory = f"out of memory, or of shared memory: {describe_shared_memory()}?"
        raise UserError(f"a process that loads data has died ({memory}); lower `workers` or set it to 0") from None
    except OSError as error:
        if error.errno not in USED_UP:
            raise
        raise UserError(
            f"the processes that load data cannot work: {error.strerror}"
            f" (shared memory: {describe_shared_memory()}); lower `workers` or set it to 0"
        ) from None


def serve_the_main_process(*_: object) -> None:
    """In a loader process: end when the main process does, however that ends, and leave signals to it.

    A signal to all shall not take away what the main process needs to finish its step.
    """
    threading.Thread(target=end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TO_ALL)
    queues.Queue._on_queue_feeder_error = staticmethod(end_without)  # type: ignore[attr-defined]


def end_without(error: Exception, item: object) -> None:
    """End this process when it cannot send an item, for which the main process would else wait for ever."""
    print(f"a batch cannot be handed over: {error}", file=sys.stderr, flush=True)
    os._exit(1)


def end_with(process: BaseProcess) -> None:
    """Wait for the end of a process, and end this one."""
    wait([process.sentinel])
    os._exit(1)
