"""Starts a command on several processes of this machine, and speaks for all of them.

    python -m utils.processes.launch PROCESSES SCRIPT [arguments ...]

This is torchrun, but for its end: bad input is one line and exit code 2, as from one process,
and not the same line from every process below torchrun's own traceback. Signals to this process
are passed on, and the exit code tells of them as that of one process does.
"""

import json
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

from utils.errors import BAD_INPUT, LAUNCHER_TELLS, UserError, one_line
from utils.interruption import BY_HAND, BY_REQUEST

SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"  # that torchrun passes on to the processes
RESTARTS = "RESTARTS"  # environment variable: how often a failed command is started again


def launch(processes: int, command: list[str], restarts: int = 0) -> int:
    """Run a Python script with its arguments on so many processes; returns the exit code of all.

    restarts: how often all of them are started again when one fails.
    """
    logging.disable(logging.ERROR)  # torchrun's report of who died, in place of which is ours
    os.environ[LAUNCHER_TELLS] = "1"
    flags = ["--standalone", f"--nproc_per_node={processes}", f"--max_restarts={restarts}"]
    with tempfile.TemporaryDirectory(prefix="launch") as folder:
        try:
            run(parse_args([*flags, f"--signals-to-handle={SIGNALS}", f"--log-dir={folder}", *command]))
        except ChildFailedError as failed:
            return explain(list(failed.failures.values()))
        except SignalException as stopped:
            say(message for _, message in read_errors(newest_files(Path(folder))))
            return BY_HAND if stopped.sigval == signal.SIGINT else BY_REQUEST
    return 0


def explain(failures: list[ProcessFailure]) -> int:
    """Say once why the processes ended; returns the exit code.

    Bad input that one of them recorded comes first, then a signal that ended one without a word, then a fault, then a
    request to stop: when one is gone, the others are asked to stop, and record that too.
    """
    recorded = read_errors(Path(failure.error_file) for failure in failures)
    if problems := [message for name, message in recorded if name == UserError.__name__]:
        say(problems)
        return BAD_INPUT
    causes = [one for one in failures if one.exitcode not in (BY_REQUEST, BY_HAND, -signal.SIGTERM)]
    if not causes and recorded:
        say(message for _, message in recorded)
        return next(one.exitcode for one in failures if one.exitcode > 0)
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


def newest_files(folder: Path) -> list[Path]:
    """Error files of the processes that were started last, below the folder of torch's logs."""
    starts = folder.glob("*/attempt_*")
    newest = max(starts, key=lambda start: int(start.name.removeprefix("attempt_")), default=folder)
    return sorted(newest.glob("*/error.json"))


def read_errors(files: Iterable[Path]) -> list[tuple[str, str]]:
    """Type and message of each exception that a process recorded in a file; others recorded none."""
    texts = [json.loads(file.read_text(encoding="utf-8"))["message"]["message"] for file in files if file.is_file()]
    return [(name, message) for name, _, message in (text.partition(": ") for text in texts)]


def say(problems: Iterable[str]) -> None:
    """Each problem once, as one line."""
    for problem in dict.fromkeys(map(one_line, problems)):
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
