"""Starts a command on several processes of this machine, and speaks for all of them.

    python -m utils.launch PROCESSES SCRIPT [arguments ...]

This is torchrun, but for its end: bad input is one line and exit code 2, as from one process,
and not the same line from every process below torchrun's own traceback. Signals to this process
are passed on, and the exit code tells of them as that of one process does.
"""

import logging
import os
import signal
import sys
import tempfile
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.run import parse_args, run

from utils.errors import BAD_INPUT, REPORTS
from utils.interruption import BY_HAND, BY_REQUEST

SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"  # that torchrun passes on to the processes
RESTARTS = "RESTARTS"  # environment variable: how often a failed command is started again


def launch(processes: int, command: list[str], restarts: int = 0) -> int:
    """Run a Python script with its arguments on so many processes; returns the exit code of all.

    restarts: how often all of them are started again when one fails.
    """
    logging.disable(logging.ERROR)  # torchrun's report of who died, in place of which is ours
    flags = ["--standalone", f"--nproc_per_node={processes}", f"--max_restarts={restarts}"]
    with tempfile.TemporaryDirectory(prefix="launch") as folder:
        os.environ[REPORTS] = folder
        try:
            run(parse_args([*flags, f"--signals-to-handle={SIGNALS}", *command]))
        except ChildFailedError as failed:
            return explain(list(failed.failures.values()), Path(folder))
        except SignalException as stopped:
            say([path.read_text(encoding="utf-8") for path in Path(folder).iterdir()])
            return BY_HAND if stopped.sigval == signal.SIGINT else BY_REQUEST
    return 0


def explain(failures: list[ProcessFailure], folder: Path) -> int:
    """Say once what the processes reported, else which one failed first; returns the exit code."""
    reports = [path.read_text(encoding="utf-8") for path in sorted(folder.iterdir())]
    stopped = [failure.exitcode for failure in failures if failure.exitcode in (BY_REQUEST, BY_HAND)]
    if reports:
        say(reports)
        return stopped[0] if stopped else BAD_INPUT
    first = min(failures, key=lambda failure: failure.timestamp)
    if first.exitcode >= 0:
        say([f"process {first.local_rank} ended with exit code {first.exitcode}; its messages are above"])
        return first.exitcode
    name = signal.Signals(-first.exitcode).name
    advice = " (out of memory?)" if name == "SIGKILL" else ""
    say([f"process {first.local_rank} was ended by {name}{advice}; the others were stopped"])
    return 128 - first.exitcode


def say(problems: list[str]) -> None:
    """Each problem once, as one line."""
    for problem in dict.fromkeys(problems):
        print(f"error: {problem}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(launch(int(sys.argv[1]), sys.argv[2:], int(os.environ.get(RESTARTS, "0"))))
