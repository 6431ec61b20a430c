"""The one exception a user is meant to read."""

import argparse
import difflib
import gc
import os
import re
import sys
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from utils.processes.interruption import BY_HAND, Stopped

FAILED, BAD_INPUT = 1, 2  # exit codes
GROUPS = "requirements.txt has what training, reports and studies need, requirements/search.txt what search needs"
REPORTS = "ERROR_REPORTS"  # environment variable: the folder that a launcher reads messages from


class UserError(Exception):
    """Bad input. The message is one line: what is wrong, where, and what to do.

    Command lines turn it into `error: MESSAGE` on standard error and exit code 2.
    """


class LostPeer(Exception):
    """Another process of the same launch is gone. The message is one line; who ended first says why."""


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the closest known name, or an empty string."""
    matches = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f" (did you mean '{matches[0]}'?)" if matches else ""


def run_command_line(main: Callable[[], int | None]) -> None:
    """Run `main` and exit: 0 or its return value; 2 with one line for bad input; 143 or 130 when stopped by a signal.

    Bad input is a `UserError`, and a file that the system does not let us use. 1: a process that others need is gone.
    """
    try:
        sys.exit(main() or 0)
    except UserError as error:
        problem, code = str(error), BAD_INPUT
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if not package or find_spec(package):  # a fault of the code, as the package itself is there
            raise
        problem, code = f"the package {package} is not installed: {GROUPS}", BAD_INPUT
    except Stopped as stopped:
        problem, code = str(stopped), stopped.code
    except KeyboardInterrupt:
        problem, code = "interrupted", BY_HAND
    except LostPeer as error:
        if not another_process_reported():
            print(f"error: {error}", file=sys.stderr)
        sys.exit(FAILED)
    except OSError as error:
        if error.filename is None or error.strerror is None:
            raise
        problem, code = f"cannot use {error.filename}: {error.strerror}", BAD_INPUT
    except Exception:
        if not another_process_reported():
            raise
        sys.exit(BAD_INPUT)  # this process only lost its peer, which says why
    gc.collect()  # the frames of `main` are gone now: progress bars they drew are closed, and the line stands alone
    if not hand_over(problem):
        print(f"error: {' '.join(problem.splitlines())}", file=sys.stderr)
    sys.exit(code)


def hand_over(problem: str) -> bool:
    """Leave a problem to the launcher, where there is one: it shows what several processes say once."""
    folder = os.environ.get(REPORTS)
    if folder:
        line = " ".join(problem.splitlines())
        Path(folder, f"{start_of_all()}-{os.getpid()}").write_text(line, encoding="utf-8", errors="replace")
    return bool(folder)


def another_process_reported() -> bool:
    """Whether a process of the same launch has ended with a message."""
    folder = os.environ.get(REPORTS)
    return bool(folder) and any(Path(folder).glob(f"{start_of_all()}-*"))


def start_of_all() -> str:
    """How often a launcher has started all processes again after one failed."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")


class CommandParser(argparse.ArgumentParser):
    """Arguments of a command; wrong ones are one line, as all bad input."""

    def error(self, message: str) -> NoReturn:
        """Raises UserError, naming the flag that a mistyped one resembles."""
        unknown = re.match(r"unrecognized arguments: (--?[\w-]+)", message)
        known = [flag for action in self._actions for flag in action.option_strings]
        hint = nearest(unknown[1], known) if unknown else ""
        raise UserError(f"{message}{hint}; see {self.prog} --help")
