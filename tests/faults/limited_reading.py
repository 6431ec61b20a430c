"""Reads checkpoint files in processes of their own that may take little memory and time.

    python limited_reading.py FILE ...            # as the program does
    python limited_reading.py --without-care FILE ...   # as one should not: shows that a file does harm

Prints a JSON object: file -> {"error": message or null, "type": of the exception, "seconds": of its work, "bytes": by
which the memory of the process grew, "reached_torch": whether torch.load was called}, or how it was killed.
"""

import contextlib
import json
import os
import pickle
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

from utils.checkpoints.files import read_checkpoint, sha256_of

SECONDS, ROOM = 10, 2**30  # at most, of a process: its work, and by how much its address space may grow
WAIT = 60  # seconds at most, by the clock, of a machine that has other work too


def memory() -> int:
    """Largest memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def limit() -> None:
    """Ends this process when it takes too long, and refuses it more memory."""
    signal.alarm(WAIT)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + ROOM, now + ROOM))


def read(path: str) -> None:
    """Reads a file and then looks at all of it, as a resuming run does."""
    sha256_of(read_checkpoint(path))


def read_without_care(path: str) -> None:
    """Every way of reading that runs code."""
    for load in (
        lambda: torch.load(path, weights_only=False),
        lambda: pickle.loads(Path(path).read_bytes()),
        lambda: np.load(path, allow_pickle=True),
    ):
        with contextlib.suppress(Exception):
            load()


def measure(reader: Callable[[str], None], path: str) -> dict[str, Any]:
    """What reading comes to, in this process."""
    load, calls, error = torch.load, [], None
    torch.load = lambda *arguments, **more: calls.append(arguments) or load(*arguments, **more)
    before, start = memory(), time.process_time()
    try:
        reader(path)
    except BaseException as caught:
        error = caught
    return {
        "error": None if error is None else str(error),
        "type": type(error).__name__,
        "seconds": round(time.process_time() - start, 3),
        "bytes": memory() - before,
        "reached_torch": bool(calls),
    }


def in_a_process(reader: Callable[[str], None], path: str) -> dict[str, Any]:
    """What reading comes to in a process of its own."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        limit()
        with open(send, "w") as file:
            json.dump(measure(reader, path), file)
        os._exit(0)
    os.close(send)
    with open(receive) as file:
        answer = file.read()
    status = os.waitpid(child, 0)[1]
    return json.loads(answer) if answer else {"error": f"killed by signal {os.WTERMSIG(status)}", "type": "killed"}


def main() -> None:
    torch.set_num_threads(1)
    without_care = sys.argv[1] == "--without-care"
    reader, paths = (read_without_care, sys.argv[2:]) if without_care else (read, sys.argv[1:])
    print(json.dumps({path: in_a_process(reader, path) for path in paths}))


if __name__ == "__main__":
    main()
