"""Starts a command on several processes of this machine, and speaks for all of them.

    python -m utils.processes.launch PROCESSES SCRIPT [arguments ...]

This is torchrun, but for its end: bad input is one line and exit code 2, as from one process,
and not the same line from every process below torchrun's own traceback. Signals to this process
are passed on, and the exit code tells of them as that of one process does.
"""

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.run import parse_args, run

from utils.errors import BAD_INPUT, REPORTS
from utils.processes.interruption import BY_HAND, BY_REQUEST

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
            return explain(list(failed.failures.values()), newest_reports(Path(folder)))
        except SignalException as stopped:
            say(newest_reports(Path(folder)).values())
            return BY_HAND if stopped.sigval == signal.SIGINT else BY_REQUEST
    return 0


def newest_reports(folder: Path) -> dict[int, str]:
    """What processes of the last start said, by process number."""
    said: dict[int, dict[int, str]] = {}
    for path in sorted(folder.iterdir()):
        start, process = map(int, path.name.split("-"))
        said.setdefault(start, {})[process] = path.read_text(encoding="utf-8")
    return said[max(said)] if said else {}


def explain(failures: list[ProcessFailure], reports: dict[int, str]) -> int:
    """Say once why the processes ended; returns the exit code.

    What one of them reported comes first, then a signal that ended one without a word, then a fault, then a request to
    stop: when one is gone, the others are asked to stop, and say so too.
    """
    stopped = {failure.pid: failure.exitcode for failure in failures if failure.exitcode in (BY_REQUEST, BY_HAND)}
    problems = [report for process, report in reports.items() if process not in stopped]
    if problems:
        say(problems)
        return BAD_INPUT
    causes = [one for one in failures if one.exitcode not in (BY_REQUEST, BY_HAND, -signal.SIGTERM)]
    if reports and not causes:
        say(reports.values())
        return next(iter(stopped.values()))
    # a process that another one lost may fail too; one that does not end when asked to is killed half a minute later
    soon = min(one.timestamp for one in causes or failures) + 10
    first = min(causes or failures, key=lambda one: (one.timestamp > soon, one.exitcode >= 0, one.timestamp))
    if first.exitcode < 0:
        name = signal.Signals(-first.exitcode).name
        advice = " (out of memory?)" if name == "SIGKILL" else ""
        say([f"process {first.local_rank} was ended by {name}{advice}; the others were stopped"])
        return 128 - first.exitcode
    say([f"process {first.local_rank} ended with exit code {first.exitcode}; its messages are above"])
    return first.exitcode


def say(problems: Iterable[str]) -> None:
    """Each problem once, as one line."""
    for problem in dict.fromkeys(problems):
        print(f"error: {problem}", file=sys.stderr)


def main() -> int:
    """The command line; the number of restarts is in the environment."""
    processes, restarts = "".join(sys.argv[1:2]), os.environ.get(RESTARTS, "0")
    if len(sys.argv) < 3 or not (processes.isdecimal() and restarts.isdecimal()):
        usage = "python -m utils.processes.launch PROCESSES SCRIPT [arguments ...]"
        say([f"{usage}, and {RESTARTS} a whole number, is expected"])
        return BAD_INPUT
    return launch(int(processes), sys.argv[2:], int(restarts))


if __name__ == "__main__":
    sys.exit(main())
